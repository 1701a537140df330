/** Workers as the rest of the engine and the API see them. Nothing here knows SQL. */

/** A backend as a worker's probe found it. */
export interface WorkerBackend {
  readonly name: string;
  readonly preference: number;
  readonly available: boolean;
  /** Whether `auto` may take it; else by name only. */
  readonly automatic: boolean;
  readonly reason: string | null;
  readonly device: string | null;
  /** What a model and its activations may take on it; null when unknown. */
  readonly memoryBytes: number | null;
  /** Precisions beside f32: why it does not train with one here, or null where it does. It never has the absent. */
  readonly precisions?: Readonly<Partial<Record<string, string | null>>>;
}

export interface WorkerRow {
  readonly id: string;
  readonly hostname: string;
  readonly pid: number;
  readonly backends: readonly WorkerBackend[];
  /** Resident memory that one of its compute processes may take. */
  readonly memoryBytes: number;
  /** What it has at hand that some jobs need (jobs/selector.ts). */
  readonly needs: readonly string[];
  /** Lane -> jobs at once. */
  readonly places: Readonly<Record<string, number>>;
  /** Lane -> ids of the jobs that it runs. */
  readonly running: Readonly<Record<string, readonly string[]>>;
  readonly startedAt: Date;
  readonly heartbeatAt: Date;
  /** Lost: silent for so long that others may take its jobs. */
  readonly state: "alive" | "lost";
}

export interface WorkerStore {
  /** The latest first; lost ones stay for a while. */
  list(): Promise<readonly WorkerRow[]>;
}
