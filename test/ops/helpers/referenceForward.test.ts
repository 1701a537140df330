import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLlamaConfig } from "../../../src/ops/architectures/llamaConfig.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { referenceForward } from "./referenceForward.ts";
import { loadSafetensors } from "./safetensors.ts";

const folder = sharedData("golden", "hf", "operators");

test("the reference forward gives transformers' logits within 1e-4", needsShared(folder), () => {
  const { input_ids: ids } = JSON.parse(readFileSync(join(folder!, "manifest.json"), "utf8")) as {
    input_ids: number[];
  };
  for (const name of ["base", "hypercloning_emb2_ffn2", "gstack_x2"]) {
    assert.ok(readdirSync(join(folder!, name)).includes("model.safetensors"));
    const config = parseLlamaConfig(JSON.parse(readFileSync(join(folder!, name, "config.json"), "utf8")));
    const logits = referenceForward(config, loadSafetensors(join(folder!, name, "model.safetensors")).values, ids);
    const golden = [...loadSafetensors(join(folder!, `${name}.logits.safetensors`)).values.values()][0]!;
    assert.equal(golden.length, ids.length * config.vocabSize);
    logits.forEach((row, t) => {
      row.forEach((value, i) => {
        assert.ok(Math.abs(value - golden[t * config.vocabSize + i]!) < 1e-4, `${name} position ${t} id ${i}`);
      });
    });
  }
});
