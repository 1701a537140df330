/**
 * Work on a device that reports its errors late (`webgpuFaults.ts`), made safe: nothing that holds numbers leaves
 * before the device has finished what they come from and has nothing to report.
 */
import type { WorkEvent } from "../../ops/events.ts";
import type { ServedModel } from "../infer/servedModel.ts";
import type { DeviceFaults } from "./webgpuFaults.ts";

/** @returns the events of `work`; those with numbers after the device has settled. @throws what it reports */
export async function* guardEvents(
  faults: DeviceFaults | null,
  work: AsyncGenerator<WorkEvent, void, undefined>,
): AsyncGenerator<WorkEvent, void, undefined> {
  if (!faults) return yield* work;
  try {
    for (;;) {
      const { value, done } = await faults.guard(work.next());
      if (done) return;
      // Metrics are numbers that were read back: the device has finished what they come from. What it has been asked
      // for since goes on meanwhile.
      if (value.type === "metrics") await faults.notice();
      else if (value.type !== "log" && value.type !== "progress") await faults.settle();
      yield value;
    }
  } finally {
    // A generator that waits for a device that is gone never ends; nobody waits for it then.
    void work.return().catch(() => undefined);
  }
}

/** @returns the model, whose every answer waits for the device to settle. */
export function guardModel(faults: DeviceFaults | null, model: ServedModel): ServedModel {
  if (!faults) return model;
  return {
    ...model,
    async *generate(request, signal) {
      const events = model.generate(request, signal)[Symbol.asyncIterator]();
      try {
        for (;;) {
          const { value, done } = await faults.guard(events.next());
          if (done) return;
          await faults.settle();
          yield value;
        }
      } finally {
        void events.return?.().catch(() => undefined);
      }
    },
    async score(requests, signal) {
      const results = await faults.guard(model.score(requests, signal));
      await faults.settle();
      return results;
    },
  };
}
