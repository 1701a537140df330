/** ENTRY of a process for bounded tasks that misbehaves as it is told. */
import { serveTasks } from "../../../src/engine/serving/boundedProcess.ts";

serveTasks((task: string): string => {
  if (task === "fill memory") {
    const kept: number[][] = [];
    for (;;) kept.push(new Array<number>(1_000_000).fill(0.5));
  }
  if (task === "loop") for (;;);
  if (task === "exit") process.exit(3);
  return `${task} by ${process.pid}`;
});
