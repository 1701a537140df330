/**
 * Grows a checkpoint: plan, build what is new (in a compute process, if anything is), measure what became of
 * the function, and hand over a manifest. A growth by reference without measurement never leaves this process.
 */
import { planGrowth, type GrowthPlan } from "../../../ops/growth/index.ts";
import type { NewBlob } from "../../../ops/events.ts";
import type { ResolvedCheckpoint } from "../../../ops/manifest.ts";
import type { TensorRef } from "../../../ops/tensor.ts";
import type { CompareResult } from "../../backends/work.ts";
import { blobLocation } from "../../checkpoint/blobs.ts";
import { checkpointDigest } from "../../checkpoint/digest.ts";
import { pickBackend } from "../backendChoice.ts";
import { assertPreserved, buildsTensors, grownManifest, growthReceipt, type Verification } from "../growthPlan.ts";
import type { Handler, HandlerContext } from "../handler.ts";
import type { GrowthRequest } from "../requests.ts";
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
  const built = await buildNew(request, plan, source, context);
  if (built === null) return "stopped";
  const manifest = grownManifest(row.manifest, plan, built.tensors, request.optimizer_state ?? "drop");
  const digest = checkpointDigest(manifest);
  const blobs = { ...source.blobs };
  for (const blob of built.blobs) blobs[blob.digest] = blobLocation(settings.blobDir, blob);
  const verification = await verify(request, plan, { source, target: { id: "grown", manifest, blobs } }, context);
  if (verification === null) return "stopped";
  assertPreserved(plan, verification);
  const receipt = growthReceipt(request, plan, digest, verification);
  return {
    checkpoint: {
      ...{ name: request.name ?? null, manifest, digest, relation: "grown", parents: [row.id] },
      // the base's tokens and FLOPs were spent on these weights too
      ...{ tokensSeen: row.tokensSeen, flopsSpent: row.flopsSpent, dataSeen: row.dataSeen },
      ...{ receipt, metadata: request.metadata ?? {}, job: context.job.id },
      blobs: ownBlobs(built.blobs),
    },
    result: ({ checkpoint }) => ({ checkpoint: checkpoint?.id ?? null, receipt }),
  };
};

async function buildNew(
  request: GrowthRequest,
  plan: GrowthPlan,
  source: ResolvedCheckpoint,
  context: HandlerContext,
): Promise<{ tensors: readonly TensorRef[]; blobs: readonly NewBlob[] } | null> {
  if (!buildsTensors(plan)) return { tensors: [], blobs: [] };
  const { operator, axis, factor, params, seed } = request;
  const asked = { operator, axis, ...(factor === undefined ? {} : { factor }), ...(params ? { params } : {}) };
  const work = { source, request: { ...asked, seed: seed ?? 0 }, blobDir: context.settings.blobDir };
  const made = await collect<readonly TensorRef[]>(context.compute({ kind: "grow", work }), context);
  return made === null ? null : { tensors: made.result, blobs: made.blobs };
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
  const backend = await pickBackend(null, context.settings);
  const availableBytes = Math.min(context.settings.computeMemoryBytes, backend.memoryBytes ?? Infinity);
  if (neededBytes > availableBytes) {
    return { skipped: `both models need about ${neededBytes} bytes of memory; ${availableBytes} are available` };
  }
  const positions = Math.min(probe.positions, config.maxPositionEmbeddings);
  const work = { ...models, seed: request.seed ?? 0, sequences: probe.sequences, positions };
  const made = await collect<CompareResult>(context.compute({ kind: "compare", backend: backend.name, work }), context);
  return made === null ? null : { measured: made.result };
}
