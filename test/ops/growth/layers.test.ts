import assert from "node:assert/strict";
import { test } from "node:test";
import { CodedError } from "../../../src/ops/errors.ts";
import {
  connectionRate,
  interpolatedLayers,
  partialStackLayers,
  repeatedLayers,
  stackedLayers,
} from "../../../src/ops/growth/layers.ts";
import { schemeLayers } from "../../../src/ops/growth/schemes.ts";

/** The paper's eight partial stacks, 6 -> 24 (H.3), with the rate computed in method section 2. */
const partialStacks: [pattern: string, list: number[], rate: string][] = [
  ["123456*4", repeat([0, 1, 2, 3, 4, 5], 4), "0.8696"],
  ["12-3456*5-56", [0, 1, ...repeat([2, 3, 4, 5], 5), 4, 5], "0.7826"],
  ["12-345*7-6", [0, 1, ...repeat([2, 3, 4], 7), 5], "0.7391"],
  ["123-456*7", [0, 1, 2, ...repeat([3, 4, 5], 7)], "0.7391"],
  ["1234-56*10", [0, 1, 2, 3, ...repeat([4, 5], 10)], "0.6087"],
  ["12-34*10-56", [0, 1, ...repeat([2, 3], 10), 4, 5], "0.6087"],
  ["1-234*7-56", [0, ...repeat([1, 2, 3], 7), 4, 5], "0.7391"],
  ["123*7-456", [...repeat([0, 1, 2], 7), 3, 4, 5], "0.7391"],
];

function repeat(list: readonly number[], times: number): number[] {
  return Array.from({ length: times }, () => list).flat();
}

function rate(list: readonly number[]): string {
  return connectionRate(list)!.toFixed(4);
}

test("invariant 32: the interpolation list for 8 -> 24 is floor(i / 3), the stack list i mod 8", () => {
  assert.deepEqual(
    interpolatedLayers(8, 3),
    Array.from({ length: 24 }, (_, i) => Math.floor(i / 3)),
  );
  assert.deepEqual(
    stackedLayers(8, 3),
    Array.from({ length: 24 }, (_, i) => i % 8),
  );
});

test("invariant 20: the eight partial stacks have 24 layers, use each source layer, begin at 0 and end at 5", () => {
  for (const [pattern, list] of partialStacks) {
    const layers = partialStackLayers(pattern, 6, "/params/pattern");
    assert.deepEqual(layers, list, pattern);
    assert.equal(layers.length, 24);
    assert.equal(new Set(layers).size, 6);
    assert.deepEqual([layers[0], layers.at(-1)], [0, 5]);
  }
});

test("invariant 19: connection rates of the paper's stacks, of interpolation, SOLAR and LLaMA-Pro", () => {
  for (const [pattern, list, wanted] of partialStacks) assert.equal(rate(list), wanted, pattern);
  assert.equal(rate(stackedLayers(3, 2)), "0.8000");
  assert.equal(rate(interpolatedLayers(3, 2)), "0.4000");
  assert.equal(rate(stackedLayers(8, 3)), "0.9130");
  assert.equal(rate(interpolatedLayers(8, 3)), "0.3043");
  assert.equal(rate(schemeLayers({ name: "solar", drop: 8 }, 32, "")), "0.9787");
  assert.equal(rate(schemeLayers({ name: "llama_pro", every: 4 }, 32, "")), "0.7949");
  assert.equal(connectionRate([0]), null);
  assert.equal(connectionRate([0, null, 1, 2]), 1 / 3);
});

test("invariant 30, as lists: stacking by g1 and then by g2 is stacking by g1 g2", () => {
  const once = stackedLayers(3, 2);
  assert.deepEqual(
    stackedLayers(6, 3).map((layer) => once[layer]),
    stackedLayers(3, 6),
  );
});

test("ranges reach layers above 9", () => {
  const layers = partialStackLayers("1..2-9..11*2-12..12", 12, "/p");
  assert.deepEqual(layers, [0, 1, 8, 9, 10, 8, 9, 10, 11]);
});

test("named schemes: SOLAR 32 -> 48, LLaMA-Pro 32 -> 40, middle blocks of MIDAS and LIDAS", () => {
  const solar = schemeLayers({ name: "solar", drop: 8 }, 32, "");
  assert.deepEqual([solar.length, solar[23], solar[24], solar[47]], [48, 23, 8, 31]);
  const pro = schemeLayers({ name: "llama_pro", every: 4 }, 32, "");
  assert.deepEqual(pro.slice(0, 10), [0, 1, 2, 3, 3, 4, 5, 6, 7, 7]);
  assert.equal(pro.length, 40);
  assert.deepEqual(schemeLayers({ name: "midas", block: 2 }, 6, ""), [0, 1, 2, 3, 2, 3, 4, 5]);
  assert.deepEqual(schemeLayers({ name: "midas", block: 2 }, 8, ""), [0, 1, 2, 3, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual(schemeLayers({ name: "lidas", block: 2 }, 8, ""), [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]);
  assert.deepEqual(schemeLayers({ name: "lidas", block: 6 }, 6, ""), stackedLayers(6, 2));
});

test("repeated layers are the second and later uses", () => {
  assert.deepEqual(repeatedLayers([0, 1, 0, 1]), [2, 3]);
  assert.deepEqual(repeatedLayers([0, 0, 1, 1]), [1, 3]);
});

const refusals: [title: string, run: () => unknown, code: string, pointer: string][] = [
  ["an empty pattern", () => partialStackLayers("", 6, "/p"), "unprocessable", "/p"],
  ["letters", () => partialStackLayers("12-ab", 6, "/p"), "unprocessable", "/p"],
  ["a layer 0", () => partialStackLayers("0-12", 6, "/p"), "unprocessable", "/p"],
  ["no times", () => partialStackLayers("12*0", 6, "/p"), "unprocessable", "/p"],
  ["a falling range", () => partialStackLayers("4..2", 6, "/p"), "unprocessable", "/p"],
  ["a pattern of a megabyte", () => partialStackLayers("1-".repeat(5e5), 6, "/p"), "unprocessable", "/p"],
  ["a layer that the source lacks", () => partialStackLayers("12-78", 6, "/p"), "unprocessable", "/p"],
  ["more than 1024 layers", () => partialStackLayers("123*342", 6, "/p"), "unprocessable", "/p"],
  ["an unknown scheme", () => schemeLayers({ name: "x" }, 6, "/p"), "invalid_request", "/p/name"],
  ["a scheme without its field", () => schemeLayers({ name: "solar" }, 6, "/p"), "invalid_request", "/p/drop"],
  ["a foreign field", () => schemeLayers({ name: "solar", drop: 1, block: 2 }, 6, "/p"), "invalid_request", "/p/block"],
  ["a SOLAR that drops half", () => schemeLayers({ name: "solar", drop: 3 }, 6, "/p"), "unprocessable", "/p/drop"],
  [
    "groups that do not divide",
    () => schemeLayers({ name: "llama_pro", every: 4 }, 6, "/p"),
    "unprocessable",
    "/p/every",
  ],
  [
    "a block that does not divide",
    () => schemeLayers({ name: "midas", block: 4 }, 6, "/p"),
    "unprocessable",
    "/p/block",
  ],
  [
    "a block larger than the model",
    () => schemeLayers({ name: "lidas", block: 7 }, 6, "/p"),
    "unprocessable",
    "/p/block",
  ],
];
for (const [title, run, code, pointer] of refusals) {
  test(`refused: ${title}`, () => {
    assert.throws(run, (error) => {
      assert.ok(error instanceof CodedError, String(error));
      assert.deepEqual([error.code, error.fields[0]?.pointer], [code, pointer]);
      return true;
    });
  });
}
