/**
 * Which workers may run a job, as a word that names its queue: the lane, the backend (`auto` for any), how much
 * memory the model needs, and what must be at hand beside the database. Jobs of one selector wait for each other
 * in the order they came; a worker looks only into queues whose jobs it can do.
 *
 * Sizes are rounded up to eighths of an octave, so that the queues stay few: a job may be kept from a backend that
 * it would fill to more than 91 %. The estimates behind them are from above anyway.
 */
import { CodedError } from "../../ops/errors.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { QueuedJob } from "../store/jobTypes.ts";
import type { WorkerBackend, WorkerRow } from "../store/workerTypes.ts";
import type { JobKind } from "./requests.ts";

/** Jobs of one lane wait for each other; a growth never waits for a training. */
export type Lane = "compute" | "prepare";
export const lanes: readonly Lane[] = ["compute", "prepare"];

/** `files`: uploads and import roots of the server; `benchmarks`: files of the benchmark tasks. */
export type Need = "nothing" | "files" | "benchmarks";

export interface Selector {
  readonly lane: Lane;
  /** A backend's name, or `auto`; null where nothing is computed by a backend of the request's choice. */
  readonly backend: string | null;
  /** Eighths of an octave: the job needs at most 2^(sizeClass / 8) bytes; 0 where nothing is known. */
  readonly sizeClass: number;
  readonly need: Need;
}

/** What a worker can do. */
export type Ability = Pick<WorkerRow, "backends" | "needs">;

const laneOfKind: Readonly<Record<JobKind, Lane>> = {
  training: "compute",
  evaluation: "compute",
  checkpoint_import: "prepare",
  growth: "prepare",
  dataset_build: "prepare",
};

const stepsPerOctave = 8;

/** @returns the selector of a job as it stands: once its backend is pinned, only that one will do. */
export function selectorOf({ kind, request, backend, needsBytes }: QueuedJob): Selector {
  const learns = kind === "growth" && request["operator"] === "learn";
  const lane = learns ? "compute" : laneOfKind[kind as JobKind];
  if (!Object.hasOwn(laneOfKind, kind) || lane === undefined) throw new Error(`no lane for jobs of kind ${kind}`);
  const need = needOf(kind, request);
  if (lane === "prepare") return { lane, backend: null, sizeClass: 0, need };
  const asked = learns ? (request["params"] as JsonObject | undefined)?.["backend"] : request["backend"];
  return {
    lane,
    backend: backend ?? (typeof asked === "string" ? asked : "auto"),
    sizeClass: classOf(needsBytes),
    need,
  };
}

function needOf(kind: string, request: JsonObject): Need {
  if (kind === "evaluation") {
    const sources = Object.values((request["data"] as JsonObject | undefined) ?? {}) as JsonObject[];
    return sources.some((source) => source["type"] === "upload") ? "files" : "benchmarks";
  }
  const type = (request["source"] as JsonObject | undefined)?.["type"];
  return type === "directory" || type === "upload" ? "files" : "nothing";
}

function classOf(bytes: number | null): number {
  return bytes === null || bytes <= 1 ? 0 : Math.ceil(stepsPerOctave * Math.log2(bytes));
}

/** @returns the most bytes that jobs of the selector need; null where nothing is known. */
export function bytesOf({ sizeClass }: Selector): number | null {
  return sizeClass === 0 ? null : 2 ** (sizeClass / stepsPerOctave);
}

/** @returns the name of the selector's queue, e.g. `compute.auto.256.nothing`. */
export function formatSelector({ lane, backend, sizeClass, need }: Selector): string {
  return [lane, backend ?? "-", sizeClass, need].join(".");
}

/** @returns what `formatSelector` was given, or null for any other text. */
export function parseSelector(text: string): Selector | null {
  const match = /^(compute|prepare)\.([a-z][a-z0-9_-]*|-)\.(\d{1,4})\.(nothing|files|benchmarks)$/.exec(text);
  if (!match) return null;
  const [, lane, backend = "-", sizeClass, need] = match;
  return {
    ...{ lane: lane as Lane, backend: backend === "-" ? null : backend },
    ...{ sizeClass: Number(sizeClass), need: need as Need },
  };
}

/** @returns whether the worker has what the selector asks for. */
export function canServe(selector: Selector, ability: Ability): boolean {
  if (selector.need !== "nothing" && !ability.needs.includes(selector.need)) return false;
  return selector.backend === null || backendFor(selector, ability.backends) !== null;
}

/** @returns the most preferred backend that the selector allows and whose memory is enough, or null. */
export function backendFor(selector: Selector, backends: readonly WorkerBackend[]): WorkerBackend | null {
  const bytes = bytesOf(selector) ?? 0;
  const fits = ({ name, available, automatic, memoryBytes }: WorkerBackend): boolean =>
    available &&
    (selector.backend === name || (selector.backend === "auto" && automatic)) &&
    (memoryBytes === null || bytes <= memoryBytes);
  return backends.filter(fits).sort((a, b) => b.preference - a.preference)[0] ?? null;
}

/**
 * @returns the name of the backend that a job with this selector computes with here
 * @throws backend_unavailable, model_too_large
 */
export function pickBackend(selector: Selector, backends: readonly WorkerBackend[]): string {
  const found = backendFor(selector, backends);
  if (found) return found.name;
  const asked = selector.backend ?? "auto";
  const named = backends.filter(({ name, automatic }) => (asked === "auto" && automatic) || asked === name);
  const large = named.filter(({ available }) => available);
  if (large.length > 0) {
    const most = Math.max(...large.map(({ memoryBytes }) => memoryBytes ?? 0));
    const needs = Math.round(bytesOf(selector) ?? 0);
    const message = `backend ${asked}: the model needs about ${needs} bytes, ${most} are there`;
    throw new CodedError("model_too_large", message, { details: { neededBytes: needs, availableBytes: most } });
  }
  const why = named.map(({ name, reason }) => `${name}: ${reason ?? "no reason given"}`).join("; ");
  throw new CodedError(
    "backend_unavailable",
    `backend ${asked} is not available: ${why || "it is not among BACKENDS"}`,
  );
}
