/** The paper's averages from the paper's scores: that ours is the mean that it takes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { averageSets, benchmarkAverage } from "../../../src/ops/planner/benchmarkAverage.ts";
import { publishedResults } from "../../../src/ops/planner/publishedResults.ts";

const typo = { name: "baseline-1.1B", source: "arXiv 2405.15319, Table 3" };
const isTypo = (row: { name: string; source: string }): boolean => row.name === typo.name && row.source === typo.source;

test("invariant 27: the averages of fig 3 and Tables 2, 3, 6 and 7 come out to .01; Table 3's 50.09 is a typo", () => {
  const printed = publishedResults.filter(({ average }) => average !== null);
  assert.equal(printed.length, 9 + 4 + 3 + 4 + 2);
  for (const row of printed) {
    const average = benchmarkAverage(row.scores, row.averageSet);
    assert.ok(average !== null, row.name);
    const off = Math.abs(average - (row.average ?? NaN));
    if (!isTypo(row)) assert.ok(off <= 0.0101, `${row.name} (${row.source}): ${average}, printed ${row.average}`);
  }
  const baseline = publishedResults.find(isTypo);
  assert.equal(baseline?.average, 50.09);
  assert.ok(Math.abs((benchmarkAverage(baseline.scores) ?? 0) - 50.124) < 0.001);
  const sameScores = publishedResults.find(({ name }) => name === "scratch 1.1B");
  assert.equal(benchmarkAverage(sameScores?.scores ?? {})?.toFixed(2), "50.12");
});

test("invariant 27: Table 6 averages ten tasks, Table 7 six, the others seven, WikiText never", () => {
  assert.deepEqual(
    Object.values(averageSets).map((tasks) => [tasks.length, (tasks as readonly string[]).includes("wikitext")]),
    [
      [6, false],
      [7, false],
      [10, false],
    ],
  );
  const setOf = (table: string) => publishedResults.filter(({ source }) => source.endsWith(table))[0]?.averageSet;
  assert.deepEqual(["figure 3", "Table 2", "Table 3", "Table 6", "Table 7"].map(setOf), [
    ...["seven", "seven", "seven", "ten", "six"],
  ]);
});

test("there is no average where a score is missing or not a number", () => {
  const scores = Object.fromEntries(averageSets.seven.map((task) => [task, 0.5]));
  assert.equal(benchmarkAverage(scores), 0.5);
  assert.equal(benchmarkAverage({ ...scores, piqa: undefined }), null);
  assert.equal(benchmarkAverage({ ...scores, piqa: NaN }), null);
  assert.equal(benchmarkAverage(scores, "ten"), null);
  assert.equal(publishedResults.find(({ name }) => name === "TinyLlama-1.1B")?.average, null);
});
