/** README speaks of what is there: its table of settings is the program's own, and the paths it names exist. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { readmeSettings } from "../scripts/readme.ts";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const readme = readFileSync(join(root, "README.md"), "utf8");

test("the table of settings in README is the one the program prints", () => {
  assert.ok(readme.includes(readmeSettings()), "run: npm run gen");
});

test("every link and script that README names exists", () => {
  for (const [, target] of readme.matchAll(/\]\((?!http)([^)#]+)\)/g))
    assert.ok(existsSync(join(root, target ?? "")), target);
  const scripts = (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { scripts: Record<string, string> })
    .scripts;
  for (const [, name] of readme.matchAll(/npm run ([a-z:]+)/g)) assert.ok(scripts[name ?? ""], `npm run ${name}`);
});
