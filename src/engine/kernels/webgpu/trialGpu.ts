/** A bare device to try programs on: buffers, runs, results. What goes wrong on it is told by `failed`, all of it. */
import type { Program } from "./program.ts";

export interface TrialRun {
  readonly groups: readonly [number, number];
  /** Values of the program's numbers, all of them sizes. */
  readonly numbers: readonly number[];
  readonly times: number;
}

/** Longest text of a driver that is told. */
const toldChars = 500;

export class TrialGpu {
  /** Rejects with what the device reports; never resolves. */
  readonly failed: Promise<never>;
  readonly #device: GPUDevice;
  readonly #pipelines = new Map<string, GPUComputePipeline>();

  constructor(device: GPUDevice) {
    this.#device = device;
    this.failed = new Promise<never>((_, reject) => {
      device.onuncapturederror = ({ error }) => reject(new Error(error.message.slice(0, toldChars)));
      void device.lost.then(({ message }) => reject(new Error(`the device was lost: ${message.slice(0, toldChars)}`)));
    });
    this.failed.catch(() => undefined);
  }

  buffer(values: Float32Array<ArrayBuffer>): GPUBuffer {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = this.#device.createBuffer({ size: values.byteLength, usage });
    this.#device.queue.writeBuffer(buffer, 0, values);
    return buffer;
  }

  /** Submits runs of a program. @throws an Error when it does not compile */
  async run(program: Program, buffers: readonly GPUBuffer[], { groups, numbers, times }: TrialRun): Promise<void> {
    const pipeline = await this.#pipeline(program);
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    const block = this.#device.createBuffer({ size: Math.ceil(numbers.length / 4) * 16, usage });
    this.#device.queue.writeBuffer(block, 0, Uint32Array.from(numbers));
    const entries = [...buffers, block].map((buffer, binding) => ({ binding, resource: { buffer } }));
    const group = this.#device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
    const encoder = this.#device.createCommandEncoder();
    for (let time = 0; time < times; time++) {
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(...groups);
      pass.end();
    }
    this.#device.queue.submit([encoder.finish()]);
  }

  async finished(): Promise<void> {
    await this.#device.queue.onSubmittedWorkDone();
  }

  async read(buffer: GPUBuffer): Promise<Float32Array> {
    const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
    const copy = this.#device.createBuffer({ size: buffer.size, usage });
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
    this.#device.queue.submit([encoder.finish()]);
    await copy.mapAsync(GPUMapMode.READ);
    const values = new Float32Array(copy.getMappedRange().slice(0));
    copy.destroy();
    return values;
  }

  async #pipeline({ name, code }: Program): Promise<GPUComputePipeline> {
    const known = this.#pipelines.get(name);
    if (known) return known;
    this.#device.pushErrorScope("validation");
    const module = this.#device.createShaderModule({ label: name, code });
    const compute = { module, entryPoint: "main" };
    const pipeline = await this.#device
      .createComputePipelineAsync({ label: name, layout: "auto", compute })
      .catch((error: Error) => error);
    const problem = await this.#device.popErrorScope();
    if (!(pipeline instanceof Error) && !problem) {
      this.#pipelines.set(name, pipeline);
      return pipeline;
    }
    const message = problem?.message ?? (pipeline as Error).message;
    throw new Error(`program ${name} does not compile: ${message.slice(0, toldChars)}`);
  }
}
