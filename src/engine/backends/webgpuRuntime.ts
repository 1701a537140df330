/**
 * tfjs on a GPU: the webgpu backend of tfjs on a device of our own, with buffers that are given back (`PooledBuffers`)
 * and errors that are noticed (`webgpuFaults.ts`). One device for the life of a process.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError } from "../../ops/errors.ts";
import { PooledBuffers } from "./pooledBuffers.ts";
import {
  defaultWebgpuOptions,
  factsOf,
  matrixConfigsOf,
  openDevice,
  type AdapterFacts,
  type WebgpuOptions,
} from "./webgpuDevice.ts";
import { watchDevice, type DeviceFaults } from "./webgpuFaults.ts";

/** What a process holds of its GPU. */
export interface WebgpuRuntime {
  readonly adapter: AdapterFacts;
  readonly device: GPUDevice;
  readonly faults: DeviceFaults;
  readonly buffers: PooledBuffers;
}

/** Dispatches recorded before they are submitted together. */
const batchSize = 32;

let opened: Promise<WebgpuRuntime> | null = null;

/**
 * Registers the backend `webgpu` with tfjs; activating it is the caller's.
 * @param options which GPU; only the first call of a process chooses
 * @throws backend_unavailable
 */
export function startWebgpu(options: WebgpuOptions = defaultWebgpuOptions): Promise<WebgpuRuntime> {
  return (opened ??= start(options));
}

async function start(options: WebgpuOptions): Promise<WebgpuRuntime> {
  const { gpu, adapter, device } = await openDevice(options);
  const faults = watchDevice(device);
  // tfjs looks here when it is imported, and finds itself unsupported otherwise.
  const scope = (globalThis.navigator ??= {} as Navigator);
  Object.defineProperty(scope, "gpu", { value: gpu, configurable: true });
  const { WebGPUBackend } = await import("@tensorflow/tfjs-backend-webgpu");
  const buffers = new PooledBuffers(device);
  // Small operations would else be computed by JavaScript, in other bytes.
  tf.env().set("WEBGPU_CPU_FORWARD", false);
  tf.env().set("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE", batchSize);
  tf.removeBackend("webgpu");
  const registered = tf.registerBackend("webgpu", () => {
    const backend = new WebGPUBackend(device, adapter.info);
    Object.assign(backend, { bufferManager: buffers, matrixConfigs: matrixConfigsOf(adapter) });
    return backend;
  });
  if (!registered) throw new CodedError("backend_unavailable", "tfjs did not take the webgpu backend");
  return { adapter: factsOf(adapter), device, faults, buffers };
}
