/** Every handler of the contract, put together; the compiler checks that none is missing. */
import type { RouteDeps } from "../deps.ts";
import type { Handlers } from "../handlers.ts";
import { createJobAnswers } from "../jobAnswers.ts";
import { createBlobHandlers } from "./blobs.ts";
import { createCheckpointFileHandlers } from "./checkpointFiles.ts";
import { createCheckpointHandlers } from "./checkpoints.ts";
import { createComputeHandlers } from "./compute.ts";
import { createDatasetHandlers } from "./datasets.ts";
import { createDocsHandlers } from "./docs.ts";
import { createEvaluationHandlers } from "./evaluations.ts";
import { createEvaluationSampleHandlers } from "./evaluationSamples.ts";
import { createGrowthHandlers } from "./growth.ts";
import { createInferenceHandlers } from "./inference.ts";
import { createProtocolHandlers } from "./inferenceProtocol.ts";
import { createJobHistoryHandlers } from "./jobHistory.ts";
import { createJobHandlers } from "./jobs.ts";
import { createKeyHandlers } from "./keys.ts";
import { createServiceHandlers } from "./service.ts";
import { createUploadHandlers } from "./uploads.ts";

export function createHandlers(deps: RouteDeps): Handlers {
  const answers = createJobAnswers(deps.queue, deps.store);
  return {
    ...createServiceHandlers(deps),
    ...createDocsHandlers(),
    ...createCheckpointHandlers(deps, answers),
    ...createCheckpointFileHandlers(deps),
    ...createUploadHandlers(deps),
    ...createBlobHandlers(deps),
    ...createGrowthHandlers(deps, answers),
    ...createDatasetHandlers(deps, answers),
    ...createJobHandlers(deps, answers),
    ...createJobHistoryHandlers(deps),
    ...createEvaluationHandlers(deps, answers),
    ...createEvaluationSampleHandlers(deps),
    ...createComputeHandlers(deps),
    ...createKeyHandlers(deps),
    ...createInferenceHandlers(deps),
    ...createProtocolHandlers(deps),
  } satisfies Handlers;
}
