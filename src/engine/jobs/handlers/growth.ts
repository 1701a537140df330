/**
 * Grows a checkpoint: plan, build what is new (in a compute process, if anything is), measure what became of
 * the function, and hand over a manifest. A growth by reference without measurement never leaves this process.
 */
import { planGrowth, type GrowthPlan } from "../../../ops/growth/index.ts";
import type { NewBlob } from "../../../ops/events.ts";
import type { OptimizerRef, ResolvedCheckpoint } from "../../../ops/manifest.ts";
import type { TensorRef } from "../../../ops/tensor.ts";
import type { CompareResult } from "../../backends/work.ts";
import { blobLocation } from "../../checkpoint/blobs.ts";
import { checkpointDigest } from "../../checkpoint/digest.ts";
import type { CheckpointRow } from "../../store/types.ts";
import { pinBackend } from "../backendChoice.ts";
import type { FittedGrowth } from "../fitGrowth.ts";
import { fitDataset, fitReceipt, planFit, type FitOutcome } from "../fitPlan.ts";
import type { BuiltTensors } from "../../growth/growTensors.ts";
import { assertPreserved, buildsTensors, grownManifest } from "../growthPlan.ts";
import { growthFields, growthReceipt, type Verification } from "../growthPlan.ts";
import type { Handler, HandlerContext } from "../handler.ts";
import type { GrowthRequest } from "../requests.ts";
import { backendFor } from "../selector.ts";
import { collect, ownBlobs } from "./collect.ts";

/** The probe batch of a measurement. */
const probe = { sequences: 2, positions: 32 };
/** Both models in float32, and activations: a rough upper bound of what a measurement holds per parameter. */
const probeBytesPerParameter = 6;

export const growth: Handler<"growth"> = async (request, context) => {
  const { store, settings } = context;
  const row = await store.checkpoints.get(request.checkpoint);
  const source = await store.checkpoints.resolve(row);
  const plan = planGrowth(row.manifest, request);
  const built = plan.fit
    ? await fitNew(request, plan, row, source, context)
    : await buildNew(request, plan, source, context);
  if (built === null) return "stopped";
  const { fit } = built;
  const manifest = grownManifest(row.manifest, plan, built.tensors, built.optimizer);
  const digest = checkpointDigest(manifest);
  const blobs = { ...source.blobs };
  for (const blob of built.blobs) blobs[blob.digest] = blobLocation(settings.blobDir, blob);
  const verification = await verify(request, plan, { source, target: { id: "grown", manifest, blobs } }, context);
  if (verification === null) return "stopped";
  assertPreserved(plan, verification);
  const receipt = {
    ...growthReceipt(request, plan, digest, verification),
    ...(fit ? { fit: fitReceipt(fit) } : {}),
  };
  return {
    checkpoint: {
      ...{ name: request.name ?? null, manifest, digest, relation: "grown", parents: [row.id] },
      // the base's tokens and FLOPs were spent on these weights too, and those of a fit
      tokensSeen: row.tokensSeen + (fit?.tokens ?? 0),
      flopsSpent: row.flopsSpent + (fit?.flops ?? 0),
      dataSeen: fit ? { ...row.dataSeen, [fit.dataset]: fit.position } : row.dataSeen,
      ...{ receipt, metadata: request.metadata ?? {}, job: context.job.id },
      blobs: ownBlobs(built.blobs),
    },
    result: ({ checkpoint }) => ({ checkpoint: checkpoint?.id ?? null, receipt }),
  };
};

/** What was written, and what was spent on learning it. */
interface Built {
  readonly tensors: readonly TensorRef[];
  /** The grown moments; null where they are dropped. */
  readonly optimizer: OptimizerRef | null;
  readonly blobs: readonly NewBlob[];
  readonly fit?: FitOutcome;
}

/** Learns the expansion on the request's dataset, saving resume points, and builds what follows from it. */
async function fitNew(
  request: GrowthRequest,
  plan: GrowthPlan,
  base: CheckpointRow,
  source: ResolvedCheckpoint,
  context: HandlerContext,
): Promise<Built | null> {
  const { store, settings, job } = context;
  const dataset = await store.datasets.resolve(await store.datasets.get(fitDataset(plan) ?? ""));
  const work = planFit({ request, plan, base, source, dataset, job, settings });
  const backend = await pinBackend(context);
  const events = context.compute({ kind: "fit", backend, work });
  const made = await collect<FittedGrowth>(events, context, async ({ state, blobs }) => {
    await context.save(state, blobs, null);
  });
  if (made === null) return null;
  const { tensors, fit } = made.result;
  const { step: steps, tokens, flops, position } = fit.state;
  const losses = { trainLoss: fit.trainLoss, validationLoss: fit.validationLoss };
  const outcome = { dataset: dataset.id, backend, steps, tokens, flops, position, ...losses };
  return { tensors, optimizer: null, blobs: made.blobs, fit: outcome };
}

async function buildNew(
  request: GrowthRequest,
  plan: GrowthPlan,
  source: ResolvedCheckpoint,
  context: HandlerContext,
): Promise<Built | null> {
  const growOptimizer = request.optimizer_state === "grow";
  if (!buildsTensors(plan) && !growOptimizer) return { tensors: [], optimizer: null, blobs: [] };
  const { blobDir } = context.settings;
  const work = { source, request: growthFields(request), blobDir, growOptimizer };
  const made = await collect<BuiltTensors>(context.compute({ kind: "grow", work }), context);
  if (made === null) return null;
  const { tensors, optimizer } = made.result;
  return { tensors, optimizer, blobs: made.blobs };
}

/** Measures the change of the logits, where that is wanted and possible; null where it was stopped. */
async function verify(
  request: GrowthRequest,
  plan: GrowthPlan,
  models: { source: ResolvedCheckpoint; target: ResolvedCheckpoint },
  context: HandlerContext,
): Promise<Verification | null> {
  if (request.verify === false) return { skipped: "not asked for" };
  const { config } = models.source.manifest;
  const sourceParameters = plan.numParameters - plan.numNewParameters;
  const neededBytes = (plan.numParameters + sourceParameters) * probeBytesPerParameter;
  const backend = backendFor({ lane: "prepare", backend: "auto", sizeClass: 0, need: "nothing" }, context.backends);
  if (backend === null) return { skipped: "no backend is available where the growth ran" };
  const availableBytes = Math.min(context.settings.computeMemoryBytes, backend.memoryBytes ?? Infinity);
  if (neededBytes > availableBytes) {
    return { skipped: `both models need about ${neededBytes} bytes of memory; ${availableBytes} are available` };
  }
  const positions = Math.min(probe.positions, config.maxPositionEmbeddings);
  const work = { ...models, seed: request.seed ?? 0, sequences: probe.sequences, positions };
  const made = await collect<CompareResult>(context.compute({ kind: "compare", backend: backend.name, work }), context);
  return made === null ? null : { measured: made.result };
}
