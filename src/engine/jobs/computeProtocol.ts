/**
 * What a compute process is asked and what it says. Everything crosses a process boundary, so all is plain
 * data; the process needs files and numbers only, never the database.
 */
import type { ErrorRecord } from "../../ops/errors.ts";
import type { WorkEvent } from "../../ops/events.ts";
import type { BlobLocation, TokenizerRef } from "../../ops/manifest.ts";
import type { CompareWork, EvaluateWork, FitWork, InitializeWork, TrainWork } from "../backends/work.ts";
import type { LocalFile } from "../checkpoint/importers.ts";
import type { DatasetBuildSource } from "../data/sources.ts";
import type { GrowWork } from "../growth/work.ts";

/** Makes a checkpoint of files; `random` is InitializeWork. */
export type ImportWork = { readonly blobDir: string } & (
  | {
      readonly from: "directory";
      readonly path: string;
      readonly mode: "reference" | "copy";
      readonly importRoots: readonly string[];
    }
  | { readonly from: "files"; readonly files: readonly LocalFile[] }
  | {
      readonly from: "hub";
      readonly repository: string;
      readonly revision: string | null;
      readonly endpoint: string;
      readonly token: string | null;
      readonly timeoutMs: number;
    }
);

export interface DatasetWork {
  readonly source: DatasetBuildSource;
  readonly tokenizer: TokenizerRef;
  readonly tokenizerBlobs: Readonly<Record<string, BlobLocation>>;
  readonly validationFraction: number;
  readonly seed: number;
  readonly blobDir: string;
}

/** Fetches splits of a task's data set from the hub; its result is a list of HubData. */
export interface TaskDataWork {
  readonly task: string;
  readonly splits: readonly string[];
  readonly revision: string | null;
  readonly endpoint: string;
  readonly token: string | null;
  readonly timeoutMs: number;
  readonly cacheDir: string;
}

export type ComputeRequest =
  | { readonly kind: "train"; readonly backend: string; readonly work: TrainWork }
  | { readonly kind: "fit"; readonly backend: string; readonly work: FitWork }
  | { readonly kind: "task_data"; readonly work: TaskDataWork }
  | { readonly kind: "evaluate"; readonly backend: string; readonly work: EvaluateWork }
  | { readonly kind: "compare"; readonly backend: string; readonly work: CompareWork }
  | { readonly kind: "initialize"; readonly work: InitializeWork }
  | { readonly kind: "grow"; readonly work: GrowWork }
  | { readonly kind: "import"; readonly work: ImportWork }
  | { readonly kind: "dataset"; readonly work: DatasetWork };

/** Server to compute process. */
export type ToChild =
  | { readonly type: "start"; readonly request: ComputeRequest; readonly threads: number }
  /** The consumer took one more event: the process may send another. */
  | { readonly type: "taken" }
  | { readonly type: "stop" };

/** Compute process to server. */
export type FromChild =
  | { readonly type: "event"; readonly event: WorkEvent }
  | { readonly type: "alive"; readonly rssBytes: number }
  /** `trace` is private: it is logged where the error is, never stored or sent. */
  | { readonly type: "failed"; readonly error: ErrorRecord; readonly trace: string }
  | { readonly type: "done" };

/** Events that a compute process may be ahead of its consumer. */
export const maxEventsAhead = 64;
/** How often a compute process says that it lives. */
export const aliveEveryMs = 2_000;
