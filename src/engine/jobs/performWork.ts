/**
 * What a compute process does with a request. Each kind loads its own code when it is asked for, so that the
 * process of an import never holds a tensor library.
 */
import type { WorkEvent } from "../../ops/events.ts";
import type { Backend } from "../backends/backend.ts";
import type { WebgpuOptions } from "../backends/webgpuDevice.ts";
import type { KernelVariant } from "../kernels/wasm/variants.ts";
import type { ComputeRequest, ImportWork, TaskDataWork } from "./computeProtocol.ts";
import { progressStream } from "./progressStream.ts";

export interface PerformOptions {
  readonly threads: number;
  /** The build of the wasm kernels to insist on; null for the fastest that runs. */
  readonly kernels: KernelVariant | null;
  readonly webgpu: WebgpuOptions;
  readonly signal: AbortSignal;
}

/** @throws whatever the work throws; CodedErrors are meant for the user */
export async function* performWork(request: ComputeRequest, options: PerformOptions): AsyncGenerator<WorkEvent> {
  const { signal, threads, kernels, webgpu } = options;
  const backend = async (name: string): Promise<Backend> =>
    (await import("../backends/index.ts")).getBackend(name, { threads, variant: kernels, webgpu });
  switch (request.kind) {
    case "train":
      return yield* (await backend(request.backend)).train(request.work, signal);
    case "fit": {
      const { fitGrowth } = await import("./fitGrowth.ts");
      return yield* fitGrowth(await backend(request.backend), request.work, signal);
    }
    case "task_data":
      return yield* taskDataWork(request.work, signal);
    case "evaluate":
      return yield* (await backend(request.backend)).evaluate(request.work, signal);
    case "compare":
      return yield* (await backend(request.backend)).compare(request.work, signal);
    case "initialize": {
      const { initializeRandom } = await import("../checkpoint/initialize.ts");
      return yield* progressStream("writing weights", signal, async (onProgress) => {
        const made = await initializeRandom(request.work, {
          signal,
          onProgress: (done, all) => onProgress(done / all),
        });
        return { result: made, blobs: made.blobs };
      });
    }
    case "grow": {
      const { growTensors } = await import("../growth/growTensors.ts");
      return yield* progressStream("building tensors", signal, async (onProgress) => {
        const onBytes = (done: number, all: number): void => onProgress(done / all);
        const built = await growTensors(request.work, { signal, threads, onProgress: onBytes });
        return { result: built, blobs: built.blobs };
      });
    }
    case "import":
      return yield* importWork(request.work, signal);
    case "dataset": {
      const { buildDataset } = await import("../data/buildDataset.ts");
      return yield* progressStream("reading text", signal, async (onProgress) => {
        const built = await buildDataset({
          ...request.work,
          signal,
          threads,
          onProgress: ({ fraction, tokens, message }) => onProgress(fraction, { tokens, message }),
        });
        return { result: built.manifest, blobs: built.blobs };
      });
    }
  }
}

async function* taskDataWork(work: TaskDataWork, signal: AbortSignal): AsyncGenerator<WorkEvent> {
  const { fetchHubData } = await import("../eval/hubData.ts");
  const { findTask } = await import("../eval/index.ts");
  const { splits, task: name, ...options } = work;
  const task = findTask(name);
  if (!task) throw new Error(`invariant: ${name} is a task`);
  yield* progressStream(`fetching ${name}`, signal, async () => {
    const result = [];
    for (const split of splits) result.push(await fetchHubData(task, split, { ...options, signal }));
    return { result, blobs: [] };
  });
}

async function* importWork(work: ImportWork, signal: AbortSignal): AsyncGenerator<WorkEvent> {
  const { importDirectory, importFiles } = await import("../checkpoint/importers.ts");
  const { blobDir } = work;
  yield* progressStream("reading files", signal, async (onBytes) => {
    const onProgress = (done: number, all: number): void => onBytes(all > 0 ? done / all : 1);
    const common = { blobDir, signal, onProgress };
    if (work.from === "directory") {
      const { path, mode, importRoots } = work;
      const made = await importDirectory({ ...common, path, mode, importRoots });
      return { result: made, blobs: made.blobs };
    }
    if (work.from === "files") {
      const made = await importFiles({ ...common, files: work.files });
      return { result: made, blobs: made.blobs };
    }
    const { importHub } = await import("../checkpoint/hub.ts");
    const { repository, revision, endpoint, token, timeoutMs } = work;
    const made = await importHub({ ...common, repository, revision, endpoint, token, timeoutMs });
    return { result: made, blobs: made.blobs };
  });
}
