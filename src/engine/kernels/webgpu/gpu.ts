/**
 * The WebGPU backend of tfjs as the kernels see it: tensors to write into, programs to run on them, and what is known
 * of a tensor on the host. Programs are recorded into the same command stream as tfjs's own, so that everything
 * happens in the order it was asked for; nothing here waits for the device.
 *
 * What is used of tfjs without being its public API (`tensorMap`, `uploadToGPU`, the command encoders and the lists
 * of what is freed after the next submit) was checked against @tensorflow/tfjs-backend-webgpu 4.22.0, which
 * package.json pins.
 */
import * as tf from "@tensorflow/tfjs";
import { CodedError, invariant } from "../../../ops/errors.ts";
import type { MatrixConfig } from "./matrixOps.ts";
import type { Program } from "./program.ts";

/** Parameter blocks kept on the device: one for each shape of each program of a model. */
const maxKeptNumbers = 2048;

interface TensorData {
  values: ArrayLike<number> | null;
  resource: GPUBuffer | null;
}

/** The part of WebGPUBackend that is used. */
interface WebgpuBackend extends tf.KernelBackend {
  readonly device: GPUDevice;
  /** Not tfjs's: put there with the device. */
  readonly matrixConfigs?: readonly MatrixConfig[];
  readonly queue: GPUQueue;
  commandEncoder: GPUCommandEncoder | null;
  computePassEncoder: GPUComputePassEncoder | null;
  dispatchCountInPass: number;
  readonly commandQueueOwnedIds: WeakSet<object>;
  readonly uniformPendingDisposal: GPUBuffer[];
  readonly bufferManager: { acquireBuffer(sizeBytes: number, usage: number): GPUBuffer };
  readonly tensorMap: { get(dataId: object): TensorData };
  makeTensorInfo(shape: number[], dtype: tf.DataType): tf.TensorInfo;
  uploadToGPU(dataId: object): void;
  ensureCommandEncoderReady(): void;
  endComputePassEncoder(): void;
  submitQueue(): void;
}

interface Compiled {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

export interface RunOptions {
  /** Workgroups in x, y and z. */
  readonly groups: readonly [number, number?, number?];
  /** Values of the program's numbers, in its order. */
  readonly numbers: readonly number[];
  /** The numbers change from run to run: no block of them is kept. */
  readonly passing?: boolean;
}

export class Gpu {
  readonly #backend: WebgpuBackend;
  readonly #compiled = new Map<Program, Compiled>();
  readonly #numbers = new Map<string, GPUBuffer>();
  /** Integers as they were on the host when a kernel first saw them; tfjs forgets them when it uploads. */
  readonly #hostIntegers = new WeakMap<object, Int32Array>();

  /** @throws backend_unavailable when the webgpu backend of tfjs has not been set up */
  constructor() {
    const backend = tf.findBackend("webgpu") as WebgpuBackend | null;
    if (!backend?.device) {
      throw new CodedError("backend_unavailable", "the webgpu backend of tfjs is not set up: activate it first");
    }
    this.#backend = backend;
  }

  get device(): GPUDevice {
    return this.#backend.device;
  }

  /** What matrices of subgroups the adapter offers. */
  get matrixConfigs(): readonly MatrixConfig[] {
    return this.#backend.matrixConfigs ?? [];
  }

  /** @returns a new float32 tensor that the caller writes in whole. */
  output<T extends tf.Tensor>(shape: readonly number[], dtype: "float32" | "int32" = "float32"): T {
    const info = this.#backend.makeTensorInfo([...shape], dtype);
    return tf.engine().makeTensorFromTensorInfo(info, this.#backend) as T;
  }

  /**
   * Records one run of a program.
   * @param tensors one for each of its buffers, in order
   * @throws model_too_large when a tensor is larger than the device can bind
   */
  run(program: Program, tensors: readonly tf.Tensor[], { groups, numbers, passing = false }: RunOptions): void {
    invariant(tensors.length === program.buffers.length, `${program.name} got ${tensors.length} tensors`);
    invariant(numbers.length === program.numbers.length, `${program.name} got ${numbers.length} numbers`);
    const backend = this.#backend;
    const { pipeline, layout } = this.#compile(program);
    const entries = tensors.map((tensor, binding) => ({
      binding,
      resource: { buffer: this.#buffer(program, tensor) },
    }));
    const block = this.#numbersOf(program, numbers, passing);
    entries.push({ binding: entries.length, resource: { buffer: block } });
    const bindGroup = backend.device.createBindGroup({ layout, entries });
    for (const { dataId } of tensors) backend.commandQueueOwnedIds.add(dataId);
    backend.ensureCommandEncoderReady();
    backend.computePassEncoder ??= (backend.commandEncoder as GPUCommandEncoder).beginComputePass();
    const pass = backend.computePassEncoder;
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindGroup);
    pass.dispatchWorkgroups(groups[0], groups[1] ?? 1, groups[2] ?? 1);
    backend.dispatchCountInPass++;
    if (backend.dispatchCountInPass >= tf.env().getNumber("WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE")) {
      backend.endComputePassEncoder();
      backend.submitQueue();
    }
  }

  /** Submits what was recorded and waits until the device has done it. */
  async finished(): Promise<void> {
    if (this.#backend.commandEncoder) {
      this.#backend.endComputePassEncoder();
      this.#backend.submitQueue();
    }
    await this.device.queue.onSubmittedWorkDone();
  }

  /**
   * @returns the integers of a tensor that was made from host memory
   * @throws invariant for one that only ever was on the device
   */
  integers(tensor: tf.Tensor): Int32Array {
    invariant(tensor.dtype === "int32", `a kernel got a ${tensor.dtype} tensor, wanted int32`);
    const kept = this.#hostIntegers.get(tensor.dataId);
    if (kept) return kept;
    const { values } = this.#backend.tensorMap.get(tensor.dataId);
    invariant(values, "ids and targets are made from host memory, and shown to a kernel before anything else");
    const integers = Int32Array.from(values);
    this.#hostIntegers.set(tensor.dataId, integers);
    return integers;
  }

  /** @returns how many tensors share the bytes of this one, itself included. */
  owners(tensor: tf.Tensor): number {
    return this.#backend.refCount(tensor.dataId);
  }

  /**
   * Makes a tensor fit to be changed in place: bytes it shares with another are copied first where it is a variable,
   * and what tfjs remembers of its values on the host is forgotten.
   */
  writable(tensor: tf.Tensor | tf.Variable): void {
    if (this.owners(tensor) > 1) {
      invariant(tensor instanceof tf.Variable, "a tensor that is changed in place shares its bytes with another");
      const copy = tf.tidy(() => tf.add(tensor, 0));
      tensor.assign(copy);
      copy.dispose();
    }
    this.#backend.uploadToGPU(tensor.dataId);
    this.#backend.tensorMap.get(tensor.dataId).values = null;
  }

  #buffer(program: Program, tensor: tf.Tensor): GPUBuffer {
    this.#backend.uploadToGPU(tensor.dataId);
    const { resource } = this.#backend.tensorMap.get(tensor.dataId);
    invariant(resource, `${program.name}: a tensor of shape [${tensor.shape.join()}] has no buffer`);
    const most = this.#backend.device.limits.maxStorageBufferBindingSize;
    if (resource.size <= most) return resource;
    const what = `a tensor of shape [${tensor.shape.join()}] takes ${resource.size} bytes`;
    throw new CodedError("model_too_large", `${what}; this GPU binds at most ${most} at once`);
  }

  #compile(program: Program): Compiled {
    const known = this.#compiled.get(program);
    if (known) return known;
    const { device } = this.#backend;
    const visibility = GPUShaderStage.COMPUTE;
    const layout = device.createBindGroupLayout({
      label: program.name,
      entries: [
        ...program.buffers.map(({ write }, binding) => {
          const type: GPUBufferBindingType = write ? "storage" : "read-only-storage";
          return { binding, visibility, buffer: { type } };
        }),
        { binding: program.buffers.length, visibility, buffer: { type: "uniform" } },
      ],
    });
    const module = device.createShaderModule({ label: program.name, code: program.code });
    const pipeline = device.createComputePipeline({
      label: program.name,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    const compiled = { pipeline, layout };
    this.#compiled.set(program, compiled);
    return compiled;
  }

  #numbersOf(program: Program, numbers: readonly number[], passing: boolean): GPUBuffer {
    const key = passing ? "" : `${program.numbers.map(([, type]) => type[0]).join("")} ${numbers.join()}`;
    const known = passing ? undefined : this.#numbers.get(key);
    if (known) return known;
    const block = this.#writeNumbers(program, numbers);
    if (passing) this.#backend.uniformPendingDisposal.push(block);
    else this.#keep(key, block);
    return block;
  }

  #writeNumbers({ numbers: specs }: Program, numbers: readonly number[]): GPUBuffer {
    const bytes = new ArrayBuffer(Math.ceil((specs.length * 4) / 16) * 16);
    const view = new DataView(bytes);
    for (const [i, [name, type]] of specs.entries()) {
      const value = numbers[i] as number;
      if (type === "f32") view.setFloat32(i * 4, value, true);
      else {
        invariant(Number.isInteger(value) && value >= 0 && value < 2 ** 32, `${name} is ${value}, no 32-bit size`);
        view.setUint32(i * 4, value, true);
      }
    }
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    const block = this.#backend.bufferManager.acquireBuffer(bytes.byteLength, usage);
    this.#backend.queue.writeBuffer(block, 0, bytes);
    return block;
  }

  /** Keeps a block; the oldest is given back when there are too many, after what uses it has been submitted. */
  #keep(key: string, block: GPUBuffer): void {
    this.#numbers.set(key, block);
    if (this.#numbers.size <= maxKeptNumbers) return;
    const [oldest] = this.#numbers;
    if (!oldest) return;
    this.#numbers.delete(oldest[0]);
    this.#backend.uniformPendingDisposal.push(oldest[1]);
  }
}
