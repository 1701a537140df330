/** Which backend a job computes with: chosen once, at the first attempt, so that a resumed run stays with it. */
import type { BackendProbe } from "../backends/backend.ts";
import { chooseBackend } from "../backends/index.ts";
import type { Settings } from "../settings.ts";
import type { HandlerContext } from "./handler.ts";

export interface PickedBackend {
  readonly name: string;
  readonly memoryBytes: BackendProbe["memoryBytes"];
}

/** @param asked a backend's name, `auto` or null. @throws backend_unavailable */
export async function pickBackend(asked: string | null, settings: Settings): Promise<PickedBackend> {
  const backend = await chooseBackend(asked ?? "auto", settings.backends, {
    variant: settings.computeKernels,
    threads: settings.computeThreads,
  });
  return { name: backend.name, memoryBytes: (await backend.probe()).memoryBytes };
}

/** @returns the backend of the job's earlier attempts, or picks one and pins it. @throws backend_unavailable */
export async function pinBackend(asked: string | null, context: HandlerContext): Promise<string> {
  const { name } = await pickBackend(context.job.backend ?? asked, context.settings);
  if (context.job.backend === null) await context.setBackend(name);
  return name;
}
