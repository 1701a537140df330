/** Chat templates are programs of strangers: each ends, within its time and memory, and hurts nobody else. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { createTokenizers } from "../../../src/engine/serving/tokenizers.ts";
import type { ChatRendering } from "../../../src/engine/tokenizer/chatTemplate.ts";
import { CodedError } from "../../../src/ops/errors.ts";

function rendering(template: string): ChatRendering {
  const specialTokens = { bosToken: "<s>", eosToken: "</s>", unkToken: null, padToken: null };
  return { template, messages: [{ role: "user", content: "Hi" }], addGenerationPrompt: true, specialTokens };
}

const doubling = "{% set ns = namespace(x='ab') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";

test("templates see what transformers gives them", async () => {
  const tokenizers = createTokenizers();
  const text =
    "{{ bos_token }}|{{ messages[0]['role'] }}|{{ tools is none }}|{{ pad_token is defined }}|{{ eos_token }}";
  assert.equal(await tokenizers.render(rendering(text)), "<s>|user|true|false|</s>");
  await tokenizers.close();
});

for (const [name, template, codes] of [
  [
    "runs for ever",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ '' }}{% endfor %}{% endfor %}",
    ["timeout"],
  ],
  ["makes a list that fills memory", "{{ range(999999999) | length }}", ["out_of_memory", "timeout", "unprocessable"]],
  ["doubles a text", `${doubling}{{ ns.x }}`, ["out_of_memory", "timeout", "unprocessable"]],
  ["calls itself", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", ["unprocessable"]],
  ["writes too much", "{% for i in range(500000) %}0123456789{% endfor %}", ["unprocessable", "timeout"]],
  ["is not valid", "{% if %}", ["unprocessable"]],
] as const) {
  test(`a template that ${name} is ended, and those who wait are served`, async () => {
    const tokenizers = createTokenizers({ renderTimeoutMs: 2500 });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 20);
    const before = performance.now();
    const bad = tokenizers.render(rendering(template));
    const good = tokenizers.render(rendering("{{ messages[0].content }}"));
    await assert.rejects(bad, (error) => {
      assert.ok(error instanceof CodedError, String(error));
      assert.ok((codes as readonly string[]).includes(error.code), `${error.code}: ${error.message}`);
      return true;
    });
    assert.equal(await good, "Hi");
    clearInterval(timer);
    const waited = performance.now() - before;
    assert.ok(ticks > waited / 200, `${ticks} ticks of the event loop in ${waited} ms`);
    await tokenizers.close();
  });
}
