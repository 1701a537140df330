/** The verdict on every golden model directory, symbolic links included. */
import assert from "node:assert/strict";
import { chmodSync, cpSync, readdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { directorySource, openCheckpoint } from "../../../src/engine/checkpoint/reader.ts";
import { CodedError } from "../../../src/ops/errors.ts";
import { needsShared, sharedData } from "../../helpers/shared.ts";
import { scratch } from "./fixtures.ts";

const golden = sharedData("golden", "hf", "model_dirs");

/** Copies golden folders, which may be read-only, to where links can be made in them. */
function copyTree(source: string, target: string): void {
  cpSync(source, target, { recursive: true });
  chmodSync(target, 0o755);
  for (const entry of readdirSync(target, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) chmodSync(join(entry.parentPath, entry.name), 0o755);
  }
}

interface Case {
  dir: string;
  lie: string;
  judge: "refuse" | "accept" | "either";
  files: Record<string, number | string>;
}

/** Accepted by transformers, and by us: every other `either` is refused here. */
const alsoAccepted = new Set(["dirs/symlink_outside_valid", "dirs/cfg_rope_linear"]);

test("golden model directories: refused, or opened, as a safe service should", needsShared(golden), async (t) => {
  const root = await scratch(t);
  copyTree(golden as string, root);
  const cases = JSON.parse(readFileSync(join(golden as string, "manifest.json"), "utf8")) as Case[];
  assert.ok(cases.length >= 40);
  for (const { dir, files } of cases) {
    for (const [name, what] of Object.entries(files)) {
      if (typeof what === "string" && what.startsWith("symlink -> ")) {
        symlinkSync(what.slice("symlink -> ".length), join(root, dir, name));
      }
    }
  }
  for (const { dir, lie, judge } of cases) {
    let refusal: unknown = null;
    try {
      const opened = await openCheckpoint(await directorySource(join(root, dir), [root]));
      assert.equal(opened.config.hiddenSize, 8);
    } catch (error) {
      assert.ok(error instanceof CodedError, `${dir}: ${String(error)}`);
      assert.match(error.code, /^(checkpoint_|forbidden$)/, `${dir}: ${error.code}`);
      refusal = error;
    }
    const accepts = judge === "accept" || (judge === "either" && alsoAccepted.has(dir));
    assert.equal(refusal === null, accepts, `${dir} (${lie}): ${String(refusal)}`);
  }
});

test("the same link is refused when only its own directory is an import root", needsShared(golden), async (t) => {
  const root = await scratch(t);
  copyTree(join(golden as string, "dirs"), root);
  const path = join(root, "symlink_outside_valid");
  symlinkSync("../ok_sharded/model-00001-of-00002.safetensors", join(path, "model-00001-of-00002.safetensors"));
  await assert.rejects(async () => openCheckpoint(await directorySource(path, [path])), { code: "forbidden" });
});
