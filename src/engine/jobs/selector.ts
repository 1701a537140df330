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
import { byNameOnly } from "../backends/index.ts";
import type { ReducedPrecision } from "../backends/work.ts";
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
  /** Of a training with another precision than f32, which not every backend can do. */
  readonly precision?: ReducedPrecision;
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
    ...precisionOf(request["precision"]),
  };
}

function precisionOf(asked: unknown): Pick<Selector, "precision"> {
  return asked === "bf16" || asked === "mixed_f16" ? { precision: asked } : {};
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
export function formatSelector({ lane, backend, sizeClass, need, precision }: Selector): string {
  return [lane, backend ?? "-", sizeClass, need, ...(precision ? [precision] : [])].join(".");
}

/** @returns what `formatSelector` was given, or null for any other text. */
export function parseSelector(text: string): Selector | null {
  const match =
    /^(compute|prepare)\.([a-z][a-z0-9_-]*|-)\.(\d{1,4})\.(nothing|files|benchmarks)(?:\.(bf16|mixed_f16))?$/.exec(
      text,
    );
  if (!match) return null;
  const [, lane, backend = "-", sizeClass, need, precision] = match;
  return {
    ...{ lane: lane as Lane, backend: backend === "-" ? null : backend },
    ...{ sizeClass: Number(sizeClass), need: need as Need },
    ...precisionOf(precision),
  };
}

/** @returns whether the worker has what the selector asks for. */
export function canServe(selector: Selector, ability: Ability): boolean {
  if (selector.need !== "nothing" && !ability.needs.includes(selector.need)) return false;
  return selector.backend === null || backendFor(selector, ability.backends) !== null;
}

/** @returns the most preferred backend that the selector allows and whose memory is enough, or null. */
export function backendFor(selector: Selector, backends: readonly WorkerBackend[]): WorkerBackend | null {
  const named = backends.filter((backend) => isAsked(selector, backend));
  const able = named.filter((backend) => canCompute(selector, backend) && hasRoom(selector, backend));
  return able.sort((a, b) => b.preference - a.preference)[0] ?? null;
}

function isAsked({ backend }: Selector, { name, automatic }: WorkerBackend): boolean {
  const asked = backend ?? "auto";
  return asked === name || (asked === "auto" && automatic);
}

function canCompute({ precision }: Selector, backend: WorkerBackend): boolean {
  return backend.available && (!precision || backend.precisions?.[precision] === null);
}

function hasRoom(selector: Selector, { memoryBytes }: WorkerBackend): boolean {
  return memoryBytes === null || (bytesOf(selector) ?? 0) <= memoryBytes;
}

/**
 * @returns the name of the backend that a job with this selector computes with here
 * @throws backend_unavailable, model_too_large
 */
export function pickBackend(selector: Selector, backends: readonly WorkerBackend[]): string {
  const found = backendFor(selector, backends);
  if (found) return found.name;
  const asked = selector.backend ?? "auto";
  const named = backends.filter((backend) => isAsked(selector, backend));
  const large = named.filter((backend) => canCompute(selector, backend));
  if (large.length > 0) throw tooLarge(selector, large, backends);
  const candidates = asked === "auto" ? backends : named;
  const why = candidates.map((backend) => `${backend.name}: ${refusalOf(selector, backend)}`).join("; ");
  throw new CodedError(
    "backend_unavailable",
    `backend ${asked} is not available: ${why || "it is not among BACKENDS"}`,
  );
}

/** Why a backend that does not serve does not. */
function refusalOf(selector: Selector, backend: WorkerBackend): string {
  const { precision } = selector;
  const { name, available, reason, precisions } = backend;
  if (!available) return reason ?? "no reason given";
  if (precision && precisions?.[precision] !== null) {
    return precisions?.[precision] ?? `${name} does not train with precision ${precision}`;
  }
  return isAsked(selector, backend) ? (reason ?? "no reason given") : byNameOnly;
}

/** @param all among which one that was not asked for may have room */
function tooLarge(selector: Selector, asked: readonly WorkerBackend[], all: readonly WorkerBackend[]): CodedError {
  const availableBytes = Math.max(...asked.map(({ memoryBytes }) => memoryBytes ?? 0));
  const neededBytes = Math.round(bytesOf(selector) ?? 0);
  const roomy = all.filter((other) => canCompute(selector, other) && hasRoom(selector, other)).map(({ name }) => name);
  const advice = roomy.length > 0 ? `there is room on backend ${roomy.join(", ")}` : "no backend here has room for it";
  const name = selector.backend ?? "auto";
  const message = `backend ${name}: the model needs about ${neededBytes} bytes, ${availableBytes} are there; ${advice}`;
  return new CodedError("model_too_large", message, {
    details: { neededBytes, availableBytes, backendsWithRoom: roomy },
  });
}
