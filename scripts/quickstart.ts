/**
 * The main job in one command, over HTTP only: a small Llama is pre-trained on the documentation of the
 * installed packages, grown by G_stack, trained on, and compared with the same large model trained from
 * scratch on the same FLOPs, the base's included. Everything it prints was measured in this run.
 */
import { mkdtempSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { speedup } from "../src/ops/planner/speedup.ts";
import { Client, type Job, type JobEvent } from "./quickstart/client.ts";
import { gatherCorpus } from "./quickstart/corpus.ts";
import { lossFigure } from "./quickstart/figure.ts";
import { startServer } from "./lib/server.ts";
import { Progress } from "./quickstart/progress.ts";

const repository = join(dirname(fileURLToPath(import.meta.url)), "..");

/** The large model; the base has a quarter of its layers, the paper's advice g = 4 (section 4.2). */
const GROWTH_FACTOR = 4;
const LARGE_LAYERS = 8;
const SHAPE = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 258,
  hidden_size: 96,
  intermediate_size: 256,
  num_attention_heads: 4,
  num_key_value_heads: 4,
  max_position_embeddings: 128,
  tie_word_embeddings: false,
};
const SEQUENCE_LENGTH = 128;
const BATCH_TOKENS = 512;
const BASE_TOKENS = 307_200;
const GROWN_TOKENS = 819_200;

const say = (text = ""): void => console.log(text);
const millions = (value: number): string => `${(value / 1e6).toFixed(2)} M`;

interface Curve {
  readonly points: { tokens: number; flops: number; loss: number }[];
  readonly checkpoint: string;
  readonly flops: number;
  readonly tokens: number;
  readonly loss: number;
}

/** Trains one checkpoint, shows its progress, and returns its validation curve. */
async function train(
  client: Client,
  progress: Progress,
  name: string,
  checkpoint: string,
  dataset: string,
  tokens: number,
): Promise<Curve> {
  const steps = Math.ceil(tokens / BATCH_TOKENS);
  let loss = Number.NaN;
  let fraction = 0;
  const onEvent = (event: JobEvent, _job: Job): void => {
    if (event.type === "metrics" && typeof event.data["loss"] === "number") loss = event.data["loss"];
    if (event.type === "progress" && typeof event.data["fraction"] === "number") fraction = event.data["fraction"];
    progress.update(name, fraction, Number.isFinite(loss) ? `loss ${loss.toFixed(3)}` : "");
  };
  const result = await client.run(
    "/v1/trainings",
    {
      checkpoint,
      dataset,
      tokens,
      batch_tokens: BATCH_TOKENS,
      sequence_length: SEQUENCE_LENGTH,
      optimizer: { learning_rate: 3e-3, weight_decay: 0.1, clip: 1 },
      schedule: { type: "cosine", warmup_steps: Math.ceil(steps / 20), min_learning_rate: 3e-4 },
      validate_every_tokens: Math.ceil(tokens / 24 / BATCH_TOKENS) * BATCH_TOKENS,
      validation_tokens: 8192,
      skip_tokens: 0,
      name,
    },
    onEvent,
  );
  const metrics = await client.call<{ data: { tokens: number; flops: number; validation_loss: number | null }[] }>(
    "GET",
    `/v1/jobs/${String(result["job"])}/metrics`,
  );
  const points = metrics.data.flatMap((point) =>
    point.validation_loss === null ? [] : [{ tokens: point.tokens, flops: point.flops, loss: point.validation_loss }],
  );
  const curve = {
    points,
    checkpoint: String(result["checkpoint"]),
    flops: Number(result["flops"]),
    tokens: Number(result["tokens"]),
    loss: Number(result["validation_loss"]),
  };
  progress.finish(name, `validation loss ${curve.loss.toFixed(3)}`);
  return curve;
}

async function initialize(client: Client, layers: number, name: string): Promise<{ id: string; parameters: number }> {
  const config = { ...SHAPE, num_hidden_layers: layers };
  const { checkpoint } = await client.run("/v1/checkpoints", {
    name,
    source: { type: "random", config, seed: 1, tokenizer: "bytes" },
  });
  const made = await client.call<{ num_parameters: number }>("GET", `/v1/checkpoints/${String(checkpoint)}`);
  return { id: String(checkpoint), parameters: made.num_parameters };
}

function report(base: Curve, grown: Curve, scratch: Curve): void {
  const growthCurve = [...base.points, ...grown.points.map((point) => ({ ...point, flops: point.flops + base.flops }))];
  const saved = speedup(scratch.points, growthCurve);
  say("  arm                      tokens       FLOPs (base included)   validation loss");
  const row = (name: string, tokens: string, flops: number, loss: number): void =>
    say(`  ${name.padEnd(24)} ${tokens.padEnd(12)} ${flops.toExponential(3).padEnd(23)} ${loss.toFixed(4)}`);
  row("grown (G_stack)", `${base.tokens / 1000}k + ${grown.tokens / 1000}k`, base.flops + grown.flops, grown.loss);
  row("from scratch", `${scratch.tokens / 1000}k`, scratch.flops, scratch.loss);
  say();
  if (saved.speedup === null) say(`  speedup: not defined here: ${saved.reason}`);
  else {
    const percent = (saved.speedup * 100).toFixed(1);
    say(
      `  speedup: ${percent} % (FLOPs from scratch / FLOPs grown - 1, at validation loss ${saved.loss.toFixed(3)}, which both reach)`,
    );
  }
  say(
    "  A model this small, on this little text, shows how the numbers are made; what growth saves at scale is the paper's figure 3.",
  );
}

function writeFigure(base: Curve, grown: Curve, scratch: Curve): string {
  const path = join(repository, "quickstart-loss.svg");
  const grownPoints = grown.points.map((point) => ({ flops: point.flops + base.flops, loss: point.loss }));
  const figure = lossFigure("Loss at equal compute", [
    { name: "grown (G_stack)", color: "#1f7a4d", points: [...base.points, ...grownPoints], grownAt: base.flops },
    { name: "from scratch", color: "#8a8a8a", points: scratch.points, grownAt: null },
  ]);
  writeFileSync(path, figure);
  return path;
}

async function main(): Promise<void> {
  const startedAt = Date.now();
  const dataDir = mkdtempSync(join(tmpdir(), "cambium-quickstart-"));
  const corpusDir = join(dataDir, "corpus");
  say("Cambium quickstart: grow a language model and measure what that saved. All over HTTP, on this machine.\n");
  const corpus = gatherCorpus(join(repository, "node_modules"), corpusDir);
  say(
    `1. corpus: ${corpus.documents} documents, ${(corpus.bytes / 1e6).toFixed(1)} MB of documentation found in node_modules`,
  );
  const { url, stop } = await startServer({ IMPORT_ROOTS: corpusDir, COMPUTE_CONCURRENCY: "2" }, dataDir);
  const client = new Client(url);
  try {
    say(`2. server: ${url}, data in ${dataDir}`);
    const dataset = await client.run("/v1/datasets", {
      name: "documentation",
      source: { type: "directory", path: corpusDir },
      tokenizer: "bytes",
      validation_fraction: 0.02,
    });
    const built = await client.call<{ num_tokens: number; num_validation_tokens: number }>(
      "GET",
      `/v1/datasets/${String(dataset["dataset"])}`,
    );
    say(
      `3. dataset: ${millions(built.num_tokens)} training tokens, ${millions(built.num_validation_tokens)} held out (bytes as tokens)`,
    );

    const data = String(dataset["dataset"]);
    const base = await initialize(client, LARGE_LAYERS / GROWTH_FACTOR, "base");
    const scratch = await initialize(client, LARGE_LAYERS, "scratch");
    const budget = 6 * (base.parameters * BASE_TOKENS + scratch.parameters * GROWN_TOKENS);
    const scratchTokens = Math.round(budget / (6 * scratch.parameters) / BATCH_TOKENS) * BATCH_TOKENS;
    say(
      `4. models: base ${millions(base.parameters)} parameters (${LARGE_LAYERS / GROWTH_FACTOR} layers), large ${millions(scratch.parameters)} (${LARGE_LAYERS} layers)`,
    );
    say(
      `   budget: ${budget.toExponential(2)} FLOPs for each arm; the arms run side by side on ${availableParallelism()} cores\n`,
    );

    const progress = new Progress();
    const scratchArm = train(client, progress, "large, from scratch", scratch.id, data, scratchTokens);
    const growthArm = (async () => {
      const baseCurve = await train(client, progress, "base", base.id, data, BASE_TOKENS);
      const growth = await client.run("/v1/growths", {
        checkpoint: baseCurve.checkpoint,
        operator: "direct",
        axis: "depth",
        factor: GROWTH_FACTOR,
        name: "grown",
      });
      const grownCurve = await train(
        client,
        progress,
        "large, grown",
        String(growth["checkpoint"]),
        data,
        GROWN_TOKENS,
      );
      return { baseCurve, growth, grownCurve };
    })();
    const [scratchCurve, { baseCurve, growth, grownCurve }] = await Promise.all([scratchArm, growthArm]);

    const receipt = growth["receipt"] as {
      layer_map: number[];
      max_abs_logit_change: number | null;
      stored_bytes?: number;
    };
    say(
      `\n5. growth: layers [${receipt.layer_map.join(" ")}] of the base, no tensor byte copied; largest logit change ${receipt.max_abs_logit_change?.toFixed(2) ?? "not measured"}\n`,
    );
    report(baseCurve, grownCurve, scratchCurve);
    const figure = writeFigure(baseCurve, grownCurve, scratchCurve);
    const completion = await client.call<{ choices: { text: string }[] }>("POST", "/v1/completions", {
      model: grownCurve.checkpoint,
      prompt: "This function returns ",
      max_tokens: 120,
      temperature: 0.7,
      top_p: 0.95,
      seed: 1,
    });
    say(`\n6. sample of the grown model: "This function returns ${completion.choices[0]?.text ?? ""}"`);
    say(`7. figure: ${figure}`);
    say(`\nDone in ${((Date.now() - startedAt) / 1000).toFixed(0)} s. Go on with the same data:\n`);
    say(`  DATA_DIR=${dataDir} npm start        # then open http://127.0.0.1:8080/docs`);
  } finally {
    await stop();
  }
}

await main();
