/**
 * ENTRY of a helper thread of a served model (a `worker_threads` worker): takes its parts of every step until it is
 * ended. What it computes lies in the shared memory; it answers nothing but what it throws (`teamErrors.ts`).
 */
import { parentPort, workerData } from "node:worker_threads";
import type { MessagePort } from "node:worker_threads";
import { toErrorRecord } from "../../ops/errors.ts";
import type { InferenceBuild } from "../kernels/inference/build.ts";
import { openBuild } from "../kernels/inference/build.ts";
import { PanelProducts } from "../kernels/inference/panels.ts";
import { TeamMember, controlWords } from "../kernels/inference/team.ts";
import type { TeamLlama } from "../model/teamLlama.ts";
import { runTeamStep } from "../model/teamLlama.ts";
import { tellBy } from "./teamErrors.ts";
import { planWords, readPlan, stepOf } from "./teamPlan.ts";

/** Given to a helper thread. */
export interface TeamThreadData {
  readonly memory: WebAssembly.Memory;
  readonly build: InferenceBuild;
  readonly threads: number;
  /** Which of them this is, from 1. */
  readonly thread: number;
  readonly model: TeamLlama;
  /** Addresses: the team's control words, the plan, and of this thread's own for products, attention, normed rows. */
  readonly control: number;
  readonly plan: number;
  readonly productScratch: number;
  readonly attentionScratch: number;
  readonly normed: number;
  /** Takes what this thread throws. */
  readonly errors: MessagePort;
}

async function start(): Promise<void> {
  const { memory, build, threads, thread: own, model, ...at } = workerData as TeamThreadData;
  const { c, blas } = await openBuild(build, memory);
  const products = new PanelProducts(c, blas, at.productScratch);
  const words = new Int32Array(memory.buffer, at.control, controlWords);
  const member = new TeamMember(words, threads, own, { tell: tellBy(at.errors, own) });
  const plan = new Int32Array(memory.buffer, at.plan, planWords);
  const thread = { member, threads, c, products, scratch: at.attentionScratch, normed: at.normed };
  parentPort?.postMessage({ type: "ready" });
  member.follow(
    () => readPlan(plan),
    ({ firstPhase }) => firstPhase,
    (step) => {
      // Another thread made the memory grow; V8 tells this one between two turns of a loop.
      while (memory.buffer.byteLength < step.memoryBytes);
      runTeamStep(thread, model, stepOf(model, step));
    },
  );
}

await start().catch((error: unknown) => parentPort?.postMessage({ type: "failed", error: toErrorRecord(error) }));
