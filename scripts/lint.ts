/**
 * Everything that can be said of the sources without running the service: types, lint rules, the contract's
 * own lint, and that every generated file is fresh. The import walls and file sizes are a test
 * (test/tidy.test.ts), run here too because they are cheap.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";

const bin = (name: string): string => join("node_modules", ".bin", name);

const checks: readonly (readonly [title: string, command: string, args: readonly string[]])[] = [
  ["types", bin("tsc"), ["--noEmit"]],
  ["format", bin("prettier"), ["--check", "--log-level=warn", "src", "test", "bench", "scripts"]],
  ["lint", bin("eslint"), ["--max-warnings=0", "."]],
  ["contract", bin("redocly"), ["lint", "openapi.yaml"]],
  ["generated files are fresh", process.execPath, ["scripts/gen.ts", "--check"]],
  ["migrations match the schema", bin("drizzle-kit"), ["check"]],
  ["walls and sizes", process.execPath, ["--test", "test/tidy.test.ts"]],
];

let failed = 0;
for (const [title, command, args] of checks) {
  const run = spawnSync(command, args, {
    encoding: "utf8",
    env: { ...process.env, REDOCLY_TELEMETRY: "off", REDOCLY_SUPPRESS_UPDATE_NOTICE: "true" },
  });
  const passed = run.status === 0;
  console.log(`${passed ? "ok  " : "FAIL"} ${title}`);
  if (passed) continue;
  failed += 1;
  console.log(`${run.stdout ?? ""}${run.stderr ?? ""}${run.error?.message ?? ""}`);
}
process.exit(failed === 0 ? 0 : 1);
