/** The handler of each kind of job. */
import type { Handlers } from "../handler.ts";
import { checkpointImport } from "./checkpointImport.ts";
import { datasetBuild } from "./datasetBuild.ts";
import { evaluation } from "./evaluation.ts";
import { growth } from "./growth.ts";
import { training } from "./training.ts";

export const handlers: Handlers = {
  checkpoint_import: checkpointImport,
  growth,
  dataset_build: datasetBuild,
  training,
  evaluation,
};
