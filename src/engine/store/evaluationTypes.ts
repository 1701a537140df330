/** Evaluations and their results as the rest of the engine and the API see them; part of types.ts. */
import type { ErrorRecord } from "../../ops/errors.ts";
import type { JsonObject } from "../../ops/manifest.ts";
import type { JobStatus, ListQuery, Page } from "./types.ts";

export interface EvaluationRow {
  readonly id: string;
  readonly checkpoint: string;
  readonly job: string;
  readonly status: JobStatus;
  readonly request: JsonObject;
  readonly results: readonly EvaluationResultRow[];
  readonly error: ErrorRecord | null;
  readonly version: number;
  readonly createdAt: Date;
}

export interface EvaluationResultRow {
  readonly task: string;
  readonly taskVersion: string;
  readonly numDocs: number;
  readonly metrics: Readonly<Record<string, number | string>>;
  readonly higherIsBetter: Readonly<Record<string, boolean>>;
  readonly datasetDigest: string;
  readonly settings: JsonObject;
  readonly samples: SampleLog | null;
}

/** The blob of a log of samples: one JSON object a line. */
export interface SampleLog {
  readonly digest: string;
  readonly sizeBytes: number;
  readonly numSamples: number;
}

export interface EvaluationStore {
  get(id: string): Promise<EvaluationRow>;
  list(query: ListQuery & { checkpoint?: string }): Promise<Page<EvaluationRow>>;
  /** Results with what is known of their checkpoints, newest first; the latest `maxTableResults` of them. */
  results(query: { checkpoint?: string; lineage?: string; task?: string }): Promise<readonly TableResult[]>;
}

/** A result beside others. */
export interface TableResult extends EvaluationResultRow {
  readonly checkpoint: string;
  readonly checkpointName: string | null;
  readonly numParameters: number;
  readonly tokensSeen: number;
  readonly flopsSpent: number;
  /** Of the latest growth in the checkpoint's lineage; null where there was none. */
  readonly operator: string | null;
  readonly evaluation: string;
  readonly createdAt: Date;
}
