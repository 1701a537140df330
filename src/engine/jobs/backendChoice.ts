/**
 * Which backends a process has, and which of them a job computes with: chosen once, at the first attempt, so that a
 * resumed run stays with it.
 */
import { CodedError } from "../../ops/errors.ts";
import { listBackends } from "../backends/index.ts";
import type { Settings } from "../settings.ts";
import type { WorkerBackend } from "../store/workerTypes.ts";
import type { HandlerContext } from "./handler.ts";
import { pickBackend, selectorOf } from "./selector.ts";

type ProbeSettings = Pick<Settings, "backends" | "computeKernels" | "computeThreads" | "webgpu">;

/** @returns the backends that may be used here, as probed. @throws backend_unavailable for unknown names */
export async function probeBackends(settings: ProbeSettings): Promise<WorkerBackend[]> {
  const { backends: allowed, computeKernels: variant, computeThreads: threads, webgpu } = settings;
  const known = listBackends({ variant, threads, webgpu });
  assertKnown(allowed ?? []);
  const used = known.filter(({ name }) => allowed === null || allowed.includes(name));
  return Promise.all(
    used.map(async ({ name, preference, probe }) => {
      const { available, automatic = true, reason, device, memoryBytes, precisions } = await probe();
      const known = { name, preference, available, automatic, reason, device, memoryBytes };
      return precisions === undefined ? known : { ...known, precisions };
    }),
  );
}

/** @throws backend_unavailable naming the first name that no backend has */
export function assertKnown(names: readonly string[]): void {
  const known = listBackends().map(({ name }) => name);
  const unknown = names.find((name) => !known.includes(name));
  if (unknown === undefined) return;
  const message = `there is no backend ${JSON.stringify(unknown.slice(0, 40))}; there are ${known.join(", ")}`;
  throw new CodedError("backend_unavailable", message);
}

/** @returns the backend of the job's earlier attempts, or picks one and pins it. @throws backend_unavailable */
export async function pinBackend({ job, backends, setBackend }: HandlerContext): Promise<string> {
  const name = pickBackend(selectorOf(job), backends);
  if (job.backend === null) await setBackend(name);
  return name;
}
