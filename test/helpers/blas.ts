/** Whether this machine has what the native kernels need. */
import { openBlas } from "../../src/engine/kernels/native/blas.ts";
import { openOneDnn } from "../../src/engine/kernels/native/oneDnn.ts";

/** @returns null when there is a BLAS, else what is missing: the reason for which a test is skipped. */
export async function missingBlas(): Promise<string | null> {
  return openBlas(new WebAssembly.Memory({ initial: 1 })).then(
    () => null,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
}

/** @returns null when training with precision bf16 works here, else what is missing. */
export async function missingBf16(): Promise<string | null> {
  return openOneDnn(new WebAssembly.Memory({ initial: 1 })).then(
    () => missingBlas(),
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  );
}
