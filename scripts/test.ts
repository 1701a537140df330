/**
 * Runs the tests with Node's own runner, each file in a process of its own, two at a time. Arguments narrow
 * the run: `npm test -- test/ops` runs what lies below those paths.
 */
import { spawnSync } from "node:child_process";
import { globSync, statSync } from "node:fs";
import { join } from "node:path";

const MINIMUM_NODE = 22;
/** A single test file may not take longer; a hung one must not hang the run. */
const FILE_TIMEOUT_MS = 10 * 60_000;

const major = Number(process.versions.node.split(".")[0]);
if (major < MINIMUM_NODE) {
  console.error(
    `Node ${process.versions.node} is too old: ${MINIMUM_NODE} or newer is wanted. Run "npm ci" first; it brings one.`,
  );
  process.exit(1);
}

const paths = process.argv.slice(2);
const files = (paths.length > 0 ? paths : ["test"])
  .flatMap((path) => (statSync(path).isDirectory() ? globSync(join(path, "**/*.test.ts")) : [path]))
  .sort();
if (files.length === 0) {
  console.error(`no test file below ${paths.join(", ")}`);
  process.exit(1);
}

const flags = ["--test", "--test-concurrency=2", `--test-timeout=${FILE_TIMEOUT_MS}`, "--no-warnings"];
// Every test file is a process, and many start others: compiled code is kept between them.
const env = { NODE_COMPILE_CACHE: join(import.meta.dirname, "../node_modules/.cache/compiled"), ...process.env };
const run = spawnSync(process.execPath, [...flags, ...files], { stdio: "inherit", env });
process.exit(run.status ?? 1);
