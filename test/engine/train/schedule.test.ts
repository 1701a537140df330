/** Learning rates against the schedules that transformers, lit-gpt and the paper's runs had. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { ScheduleSettings } from "../../../src/engine/backends/work.ts";
import { learningRateAt } from "../../../src/engine/train/schedule.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";

const paper: ScheduleSettings = {
  type: "cosine",
  warmupSteps: 3000,
  totalSteps: 300_000,
  minLearningRate: 3e-5,
  decaySteps: 0,
};

function near(got: number, wanted: number, relative = 1e-9): void {
  assert.ok(Math.abs(got - wanted) <= relative * Math.abs(wanted), `${got}, wanted ${wanted}`);
}

test("invariant 25: cosine has the rates of the paper's 1.1B and 7B runs", () => {
  near(learningRateAt(paper, 3e-4, 3000), 3e-4);
  near(learningRateAt(paper, 3e-4, 1500), 1.5e-4);
  near(learningRateAt(paper, 3e-4, 47_683), 2.852e-4, 1e-4);
  near(learningRateAt(paper, 3e-4, 300_000), 3e-5);
  near(learningRateAt(paper, 3e-4, 1_000_000), 3e-5);
  near(learningRateAt({ ...paper, minLearningRate: 1e-5 }, 1e-4, 143_051), 5.9016e-5, 1e-4);
});

test("warm-up starts at zero, or at one part of it where the first update counts", () => {
  assert.equal(learningRateAt(paper, 3e-4, 0), 0);
  near(learningRateAt(paper, 3e-4, 0, 1), 1e-7);
  assert.equal(learningRateAt({ ...paper, warmupSteps: 0 }, 3e-4, 0), 3e-4);
});

test("wsd stays up, then goes down in a straight line over its last steps", () => {
  const wsd: ScheduleSettings = { type: "wsd", warmupSteps: 10, totalSteps: 100, minLearningRate: 0.1, decaySteps: 20 };
  near(learningRateAt(wsd, 1, 5), 0.5);
  assert.equal(learningRateAt(wsd, 1, 10), 1);
  assert.equal(learningRateAt(wsd, 1, 79), 1);
  assert.equal(learningRateAt(wsd, 1, 80), 1);
  near(learningRateAt(wsd, 1, 90), 0.55);
  near(learningRateAt(wsd, 1, 99), 0.145);
  near(learningRateAt(wsd, 1, 100), 0.1);
  assert.equal(learningRateAt({ ...wsd, decaySteps: 0 }, 1, 99), 1);
});

test("constant stays up after warm-up, whatever the total", () => {
  const constant: ScheduleSettings = {
    type: "constant",
    warmupSteps: 2,
    totalSteps: 5,
    minLearningRate: 0,
    decaySteps: 0,
  };
  assert.deepEqual(
    [0, 1, 2, 4, 100].map((t) => learningRateAt(constant, 4, t)),
    [0, 2, 4, 4, 4],
  );
});

const conventions = [
  { name: "T1_tied_gqa.constant.acc1.decay_matrices", type: "constant", min: 0, start: 0, warmup: 0 },
  { name: "T1_tied_gqa.cosine_hf.acc1.decay_all", type: "cosine", min: 0, start: 0, warmup: 5 },
  { name: "T1_tied_gqa.cosine_lit.acc1.decay_all", type: "cosine", min: 3e-4, start: 0, warmup: 5 },
  { name: "T2_untied_hd12_bias.cosine_min10.acc1.decay_all", type: "cosine", min: 3e-4, start: 1, warmup: 5 },
] as const;

for (const { name, type, min, start, warmup } of conventions) {
  const file = sharedData("golden", "hf", "train", `${name}.json`);
  test(`the rates of ${name} come out at every step`, needsShared(file), () => {
    const { lr_per_step: rates } = JSON.parse(readFileSync(file as string, "utf8")) as { lr_per_step: number[] };
    const schedule: ScheduleSettings = {
      type,
      warmupSteps: warmup,
      totalSteps: 30,
      minLearningRate: min,
      decaySteps: 0,
    };
    rates.forEach((rate, t) => {
      const got = learningRateAt(schedule, 3e-3, t, start);
      assert.ok(Math.abs(got - rate) <= 1e-12, `step ${t}: ${got}, wanted ${rate}`);
    });
  });
}
