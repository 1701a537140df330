/**
 * The request bodies of the contract, by the kind of job that they become, checked by the compiler: each is what
 * the queue takes, and a field that one side has and the other does not is an error on its line. Nothing runs here.
 */
import type { EvaluationRequest, JobRequests } from "../engine/jobs/requests.ts";
import type { Schemas } from "./handlers.ts";

/** The contract's type is assignable, and no field of the engine's is unknown to the contract. */
type Fits<Declared extends Taken, Taken> = [keyof Taken] extends [keyof Declared] ? Declared : never;

/** Kind of job -> the request body of the contract that becomes it. */
export interface DeclaredRequests {
  checkpoint_import: Fits<Schemas["CheckpointCreate"], JobRequests["checkpoint_import"]>;
  growth: Fits<Schemas["GrowthRequest"], JobRequests["growth"]>;
  dataset_build: Fits<Schemas["DatasetRequest"], JobRequests["dataset_build"]>;
  training: Fits<Schemas["TrainingRequest"], JobRequests["training"]>;
  evaluation: Fits<Schemas["EvaluationRequest"], EvaluationRequest>;
}
