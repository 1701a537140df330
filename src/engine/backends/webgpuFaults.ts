/**
 * What goes wrong on a GPU is told late and elsewhere: a call that was refused returns, computing goes on with
 * whatever lies in the buffers, and an event says so some time after. Here those events are kept, and work that
 * hands out numbers asks before it does: no number leaves a device that has reported an error.
 */
import { setImmediate } from "node:timers/promises";
import { CodedError } from "../../ops/errors.ts";

export interface DeviceFaults {
  /** Waits for what was submitted. @throws what the device has reported since it was opened */
  settle(): Promise<void>;
  /** @throws what the device has reported since it was opened, what is being delivered included */
  notice(): Promise<void>;
  /** @throws what the device has reported since it was opened */
  check(): void;
  /** Rejects when the device reports something; never resolves. */
  readonly reported: Promise<never>;
  /** Settles as `work` does, but for a fault, which comes first even where `work` waits for the device. */
  guard<T>(work: Promise<T>): Promise<T>;
}

/** Longest text of a driver that is shown. */
const shownChars = 2_000;

/** Listens to a device from now on. */
export function watchDevice(device: GPUDevice): DeviceFaults {
  let fault: CodedError | null = null;
  let reject: (error: CodedError) => void = () => undefined;
  const reported = new Promise<never>((_, no) => (reject = no));
  reported.catch(() => undefined);
  const report = (error: CodedError): void => {
    fault ??= error;
    reject(error);
  };
  device.onuncapturederror = ({ error }) => report(faultOf(error));
  void device.lost.then(({ message }) => {
    // A code that is retried: a new process, with a new device, goes on from the last resume point.
    report(new CodedError("compute_crashed", `the GPU device was lost: ${message.slice(0, shownChars)}`));
  });
  const check = (): void => {
    if (fault) throw fault;
  };
  const notice = async (): Promise<void> => {
    check();
    // Events of the device are delivered between turns of the event loop.
    await setImmediate();
    check();
  };
  const guard = <T>(work: Promise<T>): Promise<T> => Promise.race([work, reported]);
  return {
    ...{ reported, check, guard, notice },
    async settle() {
      check();
      await guard(device.queue.onSubmittedWorkDone());
      await notice();
    },
  };
}

function faultOf(error: GPUError): CodedError {
  const message = error.message.slice(0, shownChars);
  if (error.constructor.name === "GPUOutOfMemoryError") {
    return new CodedError("out_of_memory", `the GPU ran out of memory: ${message}`);
  }
  return new CodedError("internal", `the GPU reported an error: ${message}`);
}
