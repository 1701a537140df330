import assert from "node:assert/strict";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { loadTokenizer, loadTokenizerRef } from "../../../src/engine/tokenizer/loadTokenizer.ts";
import { CodedError } from "../../../src/ops/errors.ts";

// eslint-disable-next-line @typescript-eslint/no-explicit-any
type Json = any;

/** A small Llama-style tokenizer.json: words a, b, ab, the word mark, all byte tokens left out. */
function valid(): Json {
  const special = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: "1.0",
    added_tokens: [
      { id: 0, content: "<unk>", ...special },
      { id: 1, content: "<s>", ...special },
      { id: 2, content: "</s>", ...special },
    ],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "\u2581" },
        { type: "Replace", pattern: { String: " " }, content: "\u2581" },
      ],
    },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "\u2581" }, content: " " },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      vocab: { "<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3, a: 4, b: 5, ab: 6, "\u2581ab": 7 },
      merges: ["a b", "\u2581 ab"],
    },
  };
}

const plain = { addSpecialTokens: false };

test("the small tokenizer that the lies are told about is fine", () => {
  const tokenizer = loadTokenizer({ tokenizerJson: JSON.stringify(valid()) });
  assert.deepEqual(tokenizer.encode("ab ba ?", plain), [7, 3, 5, 4, 3, 0]);
  assert.equal(tokenizer.vocabSize, 8);
  assert.equal(tokenizer.eosTokenId, 2, "known by its spelling");
});

test("the companions tell which token plays which part", () => {
  const tokenizer = loadTokenizer({
    tokenizerJson: JSON.stringify(valid()),
    tokenizerConfigJson: JSON.stringify({
      eos_token: { content: "<s>" },
      model_max_length: 1e30,
      tokenizer_class: "PreTrainedTokenizerFast",
      chat_template: [
        { name: "tools", template: "T" },
        { name: "default", template: "D" },
      ],
    }),
    specialTokensMap: JSON.stringify({ eos_token: "</s>", pad_token: "<unk>" }),
  });
  assert.equal(tokenizer.eosTokenId, 1, "tokenizer_config.json comes first");
  assert.equal(tokenizer.specialTokens.padToken, "<unk>");
  assert.equal(tokenizer.modelMaxLength, null, "the sentinel is no length");
  assert.equal(tokenizer.chatTemplate, "D");
  assert.equal(tokenizer.className, "PreTrainedTokenizerFast");
});

const lies: readonly [what: string, tell: (json: Json) => void, message: RegExp][] = [
  ["no model", (json) => delete json.model, /model is missing/],
  [
    "an unknown model",
    (json) => {
      json.model.type = "Magic";
    },
    /model\.type is "Magic"/,
  ],
  ["no vocabulary", (json) => delete json.model.vocab, /model\.vocab is missing/],
  [
    "an empty vocabulary",
    (json) => {
      json.model.vocab = {};
    },
    /model\.vocab is empty/,
  ],
  [
    "an id that is no integer",
    (json) => {
      json.model.vocab.ab = 6.5;
    },
    /"ab" has id 6\.5/,
  ],
  [
    "a negative id",
    (json) => {
      json.model.vocab.ab = -1;
    },
    /"ab" has id -1/,
  ],
  [
    "an id that would make a huge table",
    (json) => {
      json.model.vocab.ab = 4e9;
    },
    /"ab" has id 4000000000/,
  ],
  [
    "an id that is text",
    (json) => {
      json.model.vocab.ab = "6";
    },
    /"ab" has id 6/,
  ],
  [
    "two tokens with one id",
    (json) => {
      json.model.vocab.ab = 5;
    },
    /id 5 is claimed by both "b" and "ab"/,
  ],
  [
    "merges that are no list",
    (json) => {
      json.model.merges = {};
    },
    /merges must be a list/,
  ],
  [
    "a merge of three",
    (json) => {
      json.model.merges = ["a b c"];
    },
    /merges\[0\] is not a pair/,
  ],
  [
    "a merge of numbers",
    (json) => {
      json.model.merges = [[1, 2]];
    },
    /merges\[0\]/,
  ],
  [
    "a merge into no token",
    (json) => {
      json.model.merges = [["b", "a"]];
    },
    /merges\[0\] makes a token that is not/,
  ],
  [
    "a subword prefix",
    (json) => {
      json.model.continuing_subword_prefix = "##";
    },
    /continuing_subword_prefix/,
  ],
  [
    "added tokens that are no list",
    (json) => {
      json.added_tokens = "<s>";
    },
    /added_tokens must be a list/,
  ],
  [
    "an added token without content",
    (json) => {
      json.added_tokens[0].content = "";
    },
    /added_tokens\[0\]\.content/,
  ],
  [
    "an added token with a wild id",
    (json) => {
      json.added_tokens[1].id = 1e12;
    },
    /"<s>" has id 1000000000000/,
  ],
  [
    "a normalizer that is text",
    (json) => {
      json.normalizer = "NFC";
    },
    /normalizer must be an object/,
  ],
  [
    "an unknown normalizer",
    (json) => {
      json.normalizer = { type: "Magic" };
    },
    /not usable/,
  ],
  [
    "an unknown decoder",
    (json) => {
      json.decoder = { type: "Magic" };
    },
    /decoder "Magic" is not supported/,
  ],
  [
    "a decoder without its content",
    (json) => {
      json.decoder = { type: "Strip" };
    },
    /decoder\.content/,
  ],
  [
    "a strip without end",
    (json) => {
      json.decoder = { type: "Strip", content: "a", start: 1e9 };
    },
    /decoder\.start/,
  ],
  [
    "a broken pattern",
    (json) => {
      json.pre_tokenizer = { type: "Split", pattern: { Regex: "(" }, behavior: "Isolated" };
    },
    /not usable/,
  ],
];

for (const [what, tell, message] of lies) {
  test(`${what} is refused`, () => {
    const json = valid();
    tell(json);
    assert.throws(
      () => loadTokenizer({ tokenizerJson: JSON.stringify(json) }),
      (error: unknown) => {
        assert.ok(error instanceof CodedError, String(error));
        assert.equal(error.code, "tokenizer_invalid");
        assert.match(error.message, message);
        return true;
      },
    );
  });
}

for (const [what, text] of [
  ["no JSON", "{"],
  ["a list", "[]"],
  ["null", "null"],
] as const) {
  test(`a file that is ${what} is refused`, () => {
    assert.throws(() => loadTokenizer({ tokenizerJson: text }), /tokenizer\.json: (not valid JSON|a JSON object)/);
    const files = { tokenizerJson: JSON.stringify(valid()), tokenizerConfigJson: text };
    assert.throws(() => loadTokenizer(files), /tokenizer_config\.json: (not valid JSON|a JSON object)/);
  });
}

test("nesting without end is refused, not followed", () => {
  for (const depth of [20, 100_000]) {
    const nested = `${'{"type":"Sequence","normalizers":['.repeat(depth)}${"]}".repeat(depth)}`;
    const tokenizerJson = JSON.stringify({ ...valid(), normalizer: "NESTED" }).replace('"NESTED"', nested);
    assert.throws(() => loadTokenizer({ tokenizerJson }), /normalizer is nested more than 16|not valid JSON/);
  }
});

test("a token named __proto__ is a token like another", () => {
  const text = JSON.stringify(valid()).replace('"a":4', '"a":4,"__proto__":8');
  const tokenizer = loadTokenizer({ tokenizerJson: text });
  assert.equal(tokenizer.vocabSize, 9);
  assert.equal(tokenizer.tokenText(8), "__proto__");
});

test("text that no token can stand for is an error where there is no unknown token", () => {
  const json = valid();
  delete json.model.unk_token;
  const tokenizer = loadTokenizer({ tokenizerJson: JSON.stringify(json) });
  assert.deepEqual(tokenizer.encode("ab", plain), [7]);
  // As in the Rust library: without an unknown token the character is left out.
  assert.deepEqual(tokenizer.encode("ab?", plain), [7]);
});

test("cutting at words changes no id, however long the text; where it could, it is not done", () => {
  const crossing = valid();
  crossing.model.vocab["b\u2581a"] = 8;
  crossing.model.vocab["\u2581a"] = 9;
  crossing.model.merges = ["b \u2581a", "\u2581 a"];
  const tokenizer = loadTokenizer({ tokenizerJson: JSON.stringify(crossing) });
  assert.deepEqual(tokenizer.encode("b a", plain), [3, 8], "the merge across the word mark is found");
  const cut = loadTokenizer({ tokenizerJson: JSON.stringify(valid()) });
  const words = "ab ba  ab a ".repeat(50);
  // ignore_merges keeps the text whole; no text as long as this is a token, so the ids must be equal.
  const whole = valid();
  whole.model.ignore_merges = true;
  assert.deepEqual(
    cut.encode(words, plain),
    loadTokenizer({ tokenizerJson: JSON.stringify(whole) }).encode(words, plain),
  );
});

test("a file larger than the limit is not read", async () => {
  const folder = await mkdtemp(join(tmpdir(), "cambium-tokenizer-"));
  try {
    const path = join(folder, "tokenizer.json");
    await writeFile(path, "{}");
    await truncate(path, 65 * 1024 * 1024);
    const files = [{ name: "tokenizer.json", blob: "b", sizeBytes: 2 }];
    const ref = { kind: "checkpoint", checkpoint: "ckpt_a", files } as const;
    await assert.rejects(
      loadTokenizerRef(ref, { b: { path, sizeBytes: 2, mtimeMs: null } }),
      /68157440 bytes, at most/,
    );
    await assert.rejects(loadTokenizerRef(ref, {}), /tokenizer\.json: blob b is not here/);
    await assert.rejects(loadTokenizerRef({ ...ref, files: [] }, {}), /ckpt_a has no tokenizer\.json/);
  } finally {
    await rm(folder, { recursive: true });
  }
});
