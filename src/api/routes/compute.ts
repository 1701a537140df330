/**
 * What can compute here: backends, probed when asked and remembered for a short while, and workers. A probe that
 * does not answer in time counts as not available, and says so.
 */
import type { BackendProbe } from "../../engine/backends/backend.ts";
import type { WorkerRow } from "../../engine/store/workerTypes.ts";
import type { ProbedBackend, RouteDeps } from "../deps.ts";
import type { HandlersOf, Schemas } from "../handlers.ts";
import { presentAll, presentWorker } from "../present.ts";

const probeTimeoutMs = 10_000;
const rememberMs = 30_000;

export function createComputeHandlers(deps: RouteDeps): HandlersOf<"listBackends" | "listWorkers"> {
  let remembered: { answer: Promise<Probed[]>; untilMs: number } | null = null;
  return {
    async listBackends() {
      if (!remembered || remembered.untilMs < performance.now()) {
        remembered = { answer: probeAll(deps), untilMs: performance.now() + rememberMs };
        remembered.answer.catch(() => (remembered = null));
      }
      const alive = (await deps.store.workers.list()).filter(({ state }) => state === "alive");
      const found = (await remembered.answer).map((probed) => ({ ...probed, workers: countWith(probed.name, alive) }));
      return { status: 200, body: presentAll(found) };
    },
    async listWorkers() {
      return { status: 200, body: presentAll((await deps.store.workers.list()).map(presentWorker)) };
    },
  };
}

/** What a probe in this process says. */
type Probed = Omit<Schemas["Backend"], "workers">;

function countWith(name: string, workers: readonly WorkerRow[]): number {
  return workers.filter(({ backends }) => backends.some((one) => one.name === name && one.available)).length;
}

async function probeAll(deps: RouteDeps): Promise<Probed[]> {
  const backends = await deps.backends();
  return Promise.all(backends.map((backend) => probeOne(backend, deps.settings.backends)));
}

async function probeOne(backend: ProbedBackend, allowed: readonly string[] | null): Promise<Probed> {
  const { name, description, preference } = backend;
  const isAllowed = allowed === null || allowed.includes(name);
  const switchedOff = "switched off here: it is not among BACKENDS";
  const found = isAllowed ? await probeInTime(backend) : unavailable(switchedOff);
  const { available, reason, device, memoryBytes } = found;
  const features = { ...found.features };
  return { name, description, preference, available, reason, device, features, memory_bytes: memoryBytes };
}

async function probeInTime(backend: ProbedBackend): Promise<BackendProbe> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<BackendProbe>((resolve) => {
    const reason = `the probe did not answer within ${probeTimeoutMs} ms`;
    timer = setTimeout(() => resolve(unavailable(reason)), probeTimeoutMs);
  });
  return Promise.race([backend.probe({ measure: true }), late]).finally(() => clearTimeout(timer));
}

function unavailable(reason: string): BackendProbe {
  return { available: false, reason, device: null, features: {}, memoryBytes: null };
}
