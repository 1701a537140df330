/**
 * The registry of backends: one line each. It is cheap to import and to probe; tensor libraries are loaded by
 * the first work that needs one.
 */
import { CodedError } from "../../ops/errors.ts";
import type { Backend, BackendOptions } from "./backend.ts";
import { createCpuBackend } from "./cpu.ts";
import { createNativeBackend } from "./native.ts";
import { createWasmBackend } from "./wasm.ts";
import { createWebgpuBackend } from "./webgpu.ts";

const factories: Readonly<Record<string, (options: BackendOptions) => Backend>> = {
  webgpu: createWebgpuBackend,
  native: createNativeBackend,
  wasm: createWasmBackend,
  cpu: () => createCpuBackend(),
};

/** @returns all backends this version knows, whether they work here or not; the preferred first. */
export function listBackends(options: BackendOptions = {}): readonly Backend[] {
  return Object.values(factories)
    .map((make) => make(options))
    .sort((a, b) => b.preference - a.preference);
}

/** @throws backend_unavailable for a name that no backend has */
export function getBackend(name: string, options: BackendOptions = {}): Backend {
  const make = Object.hasOwn(factories, name) ? factories[name] : undefined;
  if (make) return make(options);
  const known = Object.keys(factories).join(", ");
  throw new CodedError("backend_unavailable", `there is no backend ${JSON.stringify(name)}; there are ${known}`);
}

/** Why `auto` does not take a backend that is available. */
export const byNameOnly = "a software adapter, taken by name only unless WEBGPU_SOFTWARE is auto";

/**
 * The backend to use for a request.
 * @param name a backend's, or `auto` for the most preferred that works here
 * @param allowed names that may be used; null for all
 * @throws backend_unavailable, saying why
 */
export async function chooseBackend(
  name: string,
  allowed: readonly string[] | null = null,
  options: BackendOptions = {},
): Promise<Backend> {
  const isAllowed = (backend: Backend): boolean => allowed === null || allowed.includes(backend.name);
  const candidates = name === "auto" ? listBackends(options).filter(isAllowed) : [getBackend(name, options)];
  if (!candidates.every(isAllowed)) {
    const wanted = `BACKENDS allows ${allowed?.join(", ")}`;
    throw new CodedError("backend_unavailable", `backend ${name} is switched off here; ${wanted}`);
  }
  const probed = await Promise.all(candidates.map(async (backend) => ({ backend, probe: await backend.probe() })));
  const best = probed.find(({ probe }) => probe.available && (name !== "auto" || probe.automatic !== false));
  if (best) return best.backend;
  const reasons = probed.map(({ backend, probe }) => `${backend.name}: ${probe.reason ?? byNameOnly}`).join("; ");
  const why = reasons || "BACKENDS allows none that this version has";
  throw new CodedError("backend_unavailable", `backend ${name} is not available: ${why}`);
}
