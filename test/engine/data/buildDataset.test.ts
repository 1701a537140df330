import assert from "node:assert/strict";
import { utimesSync, writeFileSync } from "node:fs";
import { mkdir, readdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { CodedError } from "../../../src/ops/errors.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import type { Workplace } from "./fixtures.ts";
import { build, createWorkplace, readDocuments, readIds, resolve } from "./fixtures.ts";

async function trainDocuments(workplace: Workplace): Promise<string[]> {
  return readDocuments(resolve(workplace, await build(workplace)), "train");
}

function coded(code: string, message: RegExp) {
  return (error: unknown): boolean => {
    assert.ok(error instanceof CodedError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };
}

const lines = (count: number, name: string): string =>
  Array.from({ length: count }, (_, i) => JSON.stringify({ text: `${name} ${i}` })).join("\n");

test("a file is a document, a line of .jsonl is a document, and each ends with the end-of-sequence token", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({
    "a.txt": "plain text\n",
    "sub/b.MD": "# marked",
    "c.jsonl": '{"text": "first"}\n\n{"text": "second\\nline", "other": 1}\n{"text": ""}',
    "ignored.json": "{",
    ".hidden.txt": "no",
    ".git/d.txt": "no",
  });
  const built = await build(workplace);
  const documents = readDocuments(resolve(workplace, built), "train");
  assert.deepEqual(documents.sort(), ["# marked", "first", "plain text\n", "second\nline"]);
  assert.equal(built.manifest.numDocuments, 4);
  assert.equal(built.manifest.numTokens, documents.join("").length + 4);
  assert.equal(built.manifest.eosTokenId, 257);
  assert.equal(built.manifest.tokenDtype, "u16");
});

test("the separator splits a text file, and the line breaks around it are nobody's", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.txt": "\none\n<|endoftext|>\n\ntwo\n\nparts\r\n<|endoftext|><|endoftext|>\nthree" });
  assert.deepEqual((await trainDocuments(workplace)).sort(), ["one", "three", "two\n\nparts"]);
});

test("a separator is found wherever the chunks of reading fall", async () => {
  await using workplace = await createWorkplace();
  for (const before of [1024 * 1024 - 13, 1024 * 1024 - 7, 1024 * 1024]) {
    await workplace.write({ "a.txt": `${"x".repeat(before)}<|endoftext|>tail` });
    const documents = await trainDocuments(workplace);
    assert.deepEqual(documents.map((text) => text.length).sort((a, b) => a - b), [4, before]);
  }
});

test("a byte order mark is left out and CRLF becomes LF, in text and in .jsonl", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.txt": "\uFEFFone\r\ntwo\rthree", "b.jsonl": '\uFEFF{"text": "a\\r\\nb"}\r\n{"text": "c"}\r\n' });
  // Inside JSON a string says exactly what it is.
  assert.deepEqual((await trainDocuments(workplace)).sort(), ["a\r\nb", "c", "one\ntwo\rthree"]);
});

test("a long document is one document, whatever its pieces", async () => {
  await using workplace = await createWorkplace();
  const text = `${"line of text \u{1F600}\r\n".repeat(60_000)}${"\u00e9".repeat(400_000)}`;
  await workplace.write({ "long.txt": text });
  const documents = await trainDocuments(workplace);
  assert.equal(documents.length, 1);
  assert.ok(documents[0] === text.replaceAll("\r\n", "\n"), "same text");
});

test("the result does not depend on the number of threads", async () => {
  await using workplace = await createWorkplace();
  const text = Array.from({ length: 4000 }, (_, i) => `sentence number ${i} of a text\n`).join("");
  await workplace.write({ "a.txt": text.repeat(8), "b.txt": `${text.repeat(9)}b`, "c.jsonl": lines(3000, "doc") });
  const one = await build(workplace, { threads: 1, validationFraction: 0.1 });
  const three = await build(workplace, { threads: 3, validationFraction: 0.1 });
  assert.deepEqual(three.manifest, one.manifest);
});

test("a Hugging Face tokenizer adds no special token within a document", needsShared(sharedData("checkpoints")), async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.jsonl": '{"text": "Once upon a time"}' });
  const path = sharedData("checkpoints", "stories260K", "tokenizer.json") ?? "";
  const files = [{ name: "tokenizer.json", blob: "f".repeat(64), sizeBytes: 1 }];
  const built = await build(workplace, {
    tokenizer: { kind: "checkpoint", checkpoint: "ckpt_a", files },
    tokenizerBlobs: { ["f".repeat(64)]: { path, sizeBytes: 1, mtimeMs: null } },
  });
  assert.deepEqual(readIds(resolve(workplace, built), "train"), [403, 407, 261, 378, 2]);
  assert.equal(built.manifest.vocabSize, 512);
});

test("documents are held out by their content: deterministic, about the fraction, copies on one side", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.jsonl": lines(1000, "doc"), "copy.jsonl": lines(1000, "doc") });
  const built = await build(workplace, { validationFraction: 0.2, seed: 5 });
  const dataset = resolve(workplace, built);
  const train = new Set(readDocuments(dataset, "train"));
  const validation = readDocuments(dataset, "validation");
  assert.ok(validation.length > 300 && validation.length < 500, `${validation.length} of 2000`);
  assert.ok(validation.every((text) => !train.has(text)), "no held-out text is trained on");
  assert.equal(built.manifest.numDocuments + built.manifest.numValidationDocuments, 2000);
  const again = await build(workplace, { validationFraction: 0.2, seed: 5 });
  assert.equal(again.manifest.digest, built.manifest.digest);
  const other = await build(workplace, { validationFraction: 0.2, seed: 6 });
  assert.notDeepEqual(readDocuments(resolve(workplace, other), "validation"), validation);
});

test("documents are shuffled by the seed", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.jsonl": lines(200, "doc") });
  const inOrder = Array.from({ length: 200 }, (_, i) => `doc ${i}`);
  const first = readDocuments(resolve(workplace, await build(workplace, { seed: 1 })), "train");
  const second = readDocuments(resolve(workplace, await build(workplace, { seed: 2 })), "train");
  assert.notDeepEqual(first, inOrder);
  assert.notDeepEqual(first, second);
  assert.deepEqual([...first].sort(), [...inOrder].sort());
  assert.deepEqual([...second].sort(), [...inOrder].sort());
});

test("at least one document is held out and one is not, however small the fraction or large", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.jsonl": lines(3, "doc") });
  const few = await build(workplace, { validationFraction: 1e-9 });
  assert.deepEqual([few.manifest.numDocuments, few.manifest.numValidationDocuments], [2, 1]);
  const many = await build(workplace, { validationFraction: 0.999999 });
  assert.deepEqual([many.manifest.numDocuments, many.manifest.numValidationDocuments], [1, 2]);
  const none = await build(workplace, { validationFraction: 0 });
  assert.deepEqual([none.manifest.numDocuments, none.manifest.numValidationTokens], [3, 0]);
});

test("a single document is cut by position: its tail is held out, after a line break", async () => {
  await using workplace = await createWorkplace();
  const text = Array.from({ length: 100 }, (_, i) => `line ${i}\n`).join("");
  await workplace.write({ "a.txt": text });
  const dataset = resolve(workplace, await build(workplace, { validationFraction: 0.1 }));
  const [head = ""] = readDocuments(dataset, "train");
  const [tail = ""] = readDocuments(dataset, "validation");
  assert.equal(head + tail, text);
  assert.ok(head.endsWith("\n") && tail.length > 60 && tail.length < 100, `${tail.length} characters`);
  await workplace.write({ "a.txt": "\u00e9".repeat(50) });
  const accents = resolve(workplace, await build(workplace, { validationFraction: 0.25 }));
  const accentHead = readDocuments(accents, "train").join("");
  assert.match(accentHead, /^\u00e9+$/, "never within a character");
  assert.equal(accentHead + readDocuments(accents, "validation").join(""), "\u00e9".repeat(50));
});

test("copies of one document are all cut alike, so no tail is trained on", async () => {
  await using workplace = await createWorkplace();
  const source = { type: "text", text: ["same text again", "same text again"] } as const;
  const dataset = resolve(workplace, await build(workplace, { source, validationFraction: 0.4 }));
  assert.deepEqual(readDocuments(dataset, "train"), ["same text", "same text"]);
  assert.deepEqual(readDocuments(dataset, "validation"), [" again", " again"]);
});

test("inline text: a string is a document, a list is one each", async () => {
  await using workplace = await createWorkplace();
  const single = await build(workplace, { source: { type: "text", text: "one <|endoftext|> text" } });
  assert.deepEqual(readDocuments(resolve(workplace, single), "train"), ["one <|endoftext|> text"]);
  const list = await build(workplace, { source: { type: "text", text: ["a", "", "b"] } });
  assert.deepEqual(readDocuments(resolve(workplace, list), "train").sort(), ["a", "b"]);
});

test("uploaded files are told apart by their names", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ upload1: '{"text": "from jsonl"}', upload2: "from text" });
  const file = (name: string, stored: string) => ({ name, path: join(workplace.path, stored) });
  const source = { type: "files", files: [file("x.jsonl", "upload1"), file("y.txt", "upload2")] } as const;
  const documents = readDocuments(resolve(workplace, await build(workplace, { source })), "train");
  assert.deepEqual(documents.sort(), ["from jsonl", "from text"]);
  const wrong = { type: "files", files: [file("x.parquet", "upload1")] } as const;
  await assert.rejects(build(workplace, { source: wrong }), coded("dataset_invalid", /x\.parquet: a \.txt, \.md or \.jsonl/));
});

test("nothing outside the import roots is read, not even through a link", async () => {
  await using workplace = await createWorkplace();
  await using outside = await createWorkplace();
  await outside.write({ "secret.txt": "secret" });
  await workplace.write({ "a.txt": "fine" });
  const source = { type: "directory", path: outside.path, importRoots: [workplace.path] } as const;
  await assert.rejects(build(workplace, { source }), coded("forbidden", /outside the import roots/));
  await symlink(join(outside.path, "secret.txt"), join(workplace.path, "link.txt"));
  await assert.rejects(build(workplace), coded("forbidden", /outside the import roots/));
});

test("a link to a directory is not walked, so that no loop is", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.txt": "fine" });
  await symlink(workplace.path, join(workplace.path, "loop"));
  assert.deepEqual(await trainDocuments(workplace), ["fine"]);
});

test("directories nested too deep are refused", async () => {
  await using workplace = await createWorkplace();
  await mkdir(join(workplace.path, ...Array.from({ length: 20 }, () => "d")), { recursive: true });
  await assert.rejects(build(workplace), coded("dataset_invalid", /nested more than 16/));
});

const badFiles: readonly [what: string, name: string, content: string | Uint8Array, message: RegExp][] = [
  ["a line that is not JSON", "b.jsonl", '{"text": "a"}\n{"text": \n', /^b\.jsonl:2: not valid JSON/],
  ["a line without text", "b.jsonl", '{"text": "a"}\n\n{"txt": "b"}', /^b\.jsonl:3: field "text" is missing/],
  ["text that is no string", "b.jsonl", '{"text": 5}', /^b\.jsonl:1: field "text" is of type number/],
  ["a line that is a list", "b.jsonl", '["text"]', /^b\.jsonl:1: a JSON object is wanted/],
  ["text only on the prototype", "b.jsonl", '{"__proto__": {"text": "x"}}', /^b\.jsonl:1: field "text" is missing/],
  ["a text that is not UTF-8", "b.txt", Uint8Array.of(0x61, 0xff, 0x62), /^b\.txt: not UTF-8 between bytes 0 and 3/],
  ["UTF-16", "b.txt", Uint8Array.of(0xff, 0xfe, 0x61, 0), /^b\.txt: the text is UTF-16/],
  ["no document with text", "b.jsonl", '{"text": ""}\n', /no document with text/],
  ["no file of a known kind", "b.csv", "a,b", /no \.txt, \.md or \.jsonl file/],
];

for (const [what, name, content, message] of badFiles) {
  test(`${what} is refused by name`, async () => {
    await using workplace = await createWorkplace();
    await workplace.write({ [name]: content });
    await assert.rejects(build(workplace), coded("dataset_invalid", message));
  });
}

test("a build that fails or is cancelled leaves no unfinished blob", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.txt": "x".repeat(3_000_000), "b.txt": Uint8Array.of(0xff) });
  await assert.rejects(build(workplace), coded("dataset_invalid", /not UTF-8/));
  const controller = new AbortController();
  await workplace.write({ "b.txt": "b" });
  const cancelled = build(workplace, { signal: controller.signal, onProgress: () => controller.abort() });
  await assert.rejects(cancelled, coded("cancelled", /cancelled/));
  assert.deepEqual(await readdir(join(workplace.blobDir, "tmp")).catch(() => []), []);
});

test("a file that changes during the build is noticed", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.txt": "before" });
  const path = join(workplace.path, "a.txt");
  const onProgress = (): void => {
    writeFileSync(path, "after!");
    utimesSync(path, new Date(0), new Date(0));
  };
  await assert.rejects(build(workplace, { onProgress }), coded("source_changed", /a\.txt/));
});

test("progress goes up to one", async () => {
  await using workplace = await createWorkplace();
  await workplace.write({ "a.jsonl": lines(100, "doc"), "b.txt": "text" });
  const fractions: number[] = [];
  await build(workplace, { validationFraction: 0.1, onProgress: ({ fraction }) => fractions.push(fraction) });
  assert.ok(fractions.every((fraction, i) => fraction >= (fractions[i - 1] ?? 0) && fraction <= 1));
  assert.ok((fractions.at(-1) ?? 0) > 0.9);
});

test("a fraction or a seed that cannot be is refused", async () => {
  await using workplace = await createWorkplace();
  for (const validationFraction of [1, -0.1, Number.NaN]) {
    await assert.rejects(build(workplace, { validationFraction }), coded("invalid_request", /validation_fraction/));
  }
  await assert.rejects(build(workplace, { seed: 0.5 }), coded("invalid_request", /seed is 0\.5/));
});
