/**
 * tfjs's backends in a Node process: registering them, choosing one, finding the wasm binaries. The one place
 * that knows tfjs's global state (the active backend is global, so a compute process uses one and stays
 * with it).
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import * as tf from "@tensorflow/tfjs";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import { CodedError } from "../../ops/errors.ts";

export type TfjsBackendName = "cpu" | "wasm" | "webgpu";

/**
 * Makes a tfjs backend the active one of this process.
 * @throws backend_unavailable when it cannot be started
 */
export async function activateTfjs(name: TfjsBackendName): Promise<void> {
  // Else tfjs greets Node users with an advertisement on its first use. It changes nothing else.
  tf.env().set("PROD", true);
  if (tf.getBackend() === name) return;
  // Without this tfjs looks for its binaries in the current directory.
  if (name === "webgpu") await (await import("./webgpuRuntime.ts")).startWebgpu();
  if (name === "wasm") {
    setWasmPaths(wasmFolder());
    shareIdentity();
  }
  try {
    if (await tf.setBackend(name)) return;
  } catch (cause) {
    throw new CodedError("backend_unavailable", `the ${name} backend of tfjs did not start`, { cause });
  }
  throw new CodedError("backend_unavailable", `the ${name} backend of tfjs did not start`);
}

/**
 * Lets `tf.clone` share bytes on the wasm backend, as it does on all others. The stock kernel copies them, and
 * since the tape clones whatever a gradient needs, that would copy every activation and weight in each pass.
 */
function shareIdentity(): void {
  tf.unregisterKernel("Identity", "wasm");
  tf.registerKernel({
    kernelName: "Identity",
    backendName: "wasm",
    kernelFunc: ({ inputs, backend }) => {
      const { dataId, shape, dtype } = inputs["x"] as tf.TensorInfo;
      (backend as tf.KernelBackend).incRef(dataId);
      return { dataId, shape, dtype };
    },
  });
}

/** @returns the folder of the installed package that holds tfjs's wasm binaries, with a closing slash. */
function wasmFolder(): string {
  const main = createRequire(import.meta.url).resolve("@tensorflow/tfjs-backend-wasm");
  return join(dirname(main), "/");
}
