/** What a helper thread throws, in a part or between two, reaches the first thread with the step or the next one. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { MessageChannel, Worker } from "node:worker_threads";
import { toldBy } from "../../../src/engine/infer/teamErrors.ts";
import { TeamMember, controlWords } from "../../../src/engine/kernels/inference/team.ts";
import { CodedError } from "../../../src/ops/errors.ts";

const source = (name: string): string => new URL(`../../../src/${name}.ts`, import.meta.url).href;

/** A helper that throws as the program's number says: 1 between parts, 2 in a part, 3 a coded error; else nothing. */
const helperSource = `
  import { workerData, parentPort } from "node:worker_threads";
  const { TeamMember } = await import(workerData.team);
  const { tellBy } = await import(workerData.errors);
  const { CodedError } = await import(workerData.coded);
  const { control, inputs, port } = workerData;
  const member = new TeamMember(control, 2, 1, { tell: tellBy(port, 1) });
  parentPort.postMessage("ready");
  member.follow(() => [...inputs], ([first]) => first, ([, kind]) => {
    if (kind === 1) throw new RangeError("between parts");
    member.each(2, () => {
      if (kind === 2) throw new TypeError("in a part");
      if (kind === 3) throw new CodedError("out_of_memory", "no page is left");
    });
  });
`;

test("an error of a helper thread reaches the first, in a part and between two, and the next step works", async () => {
  const shared = (words: number): Int32Array => new Int32Array(new SharedArrayBuffer(words * 4));
  const [control, inputs] = [shared(controlWords), shared(2)];
  const { port1, port2 } = new MessageChannel();
  const modules = {
    ...{ team: source("engine/kernels/inference/team"), errors: source("engine/infer/teamErrors") },
    coded: source("ops/errors"),
  };
  const helper = new Worker(new URL(`data:text/javascript,${encodeURIComponent(helperSource)}`), {
    workerData: { ...modules, control, inputs, port: port2 },
    transferList: [port2],
  });
  try {
    await once(helper, "message", { signal: AbortSignal.timeout(20_000) });
    const member = new TeamMember(control, 2, 0, { told: toldBy([port1]) });
    const lead = (kind: number): void =>
      member.lead(
        (first) => inputs.set([first, kind]),
        // The helper's own part is left to it.
        () => member.each(2, (part) => void (kind > 1 && part === 0 && Atomics.wait(control, controlWords - 1, 0, 50))),
      );
    /** What steps end with, of this kind and then of none, until one of them fails. */
    const failureOf = (kind: number): Error => {
      for (let step = 0; step < 200; step++) {
        try {
          lead(step === 0 || kind > 1 ? kind : 0);
        } catch (error) {
          return error as Error;
        }
        Atomics.wait(control, controlWords - 1, 0, 5);
      }
      return assert.fail("no step told of the error");
    };
    assert.match(failureOf(1).message, /helper thread 1: RangeError: between parts/);
    for (let step = 0; step < 5; step++) lead(0);
    assert.match(failureOf(2).message, /helper thread 1: TypeError: in a part/);
    lead(0);
    const coded = failureOf(3);
    assert.ok(coded instanceof CodedError);
    assert.deepEqual([coded.code, coded.message], ["out_of_memory", "no page is left"]);
    lead(0);
  } finally {
    await helper.terminate();
  }
});
