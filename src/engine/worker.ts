/**
 * ENTRY of a worker process: runs jobs for servers that share its PostgreSQL and its data directory, or for those
 * that share the PostgreSQL alone and give and take blobs over HTTP.
 *   npm run worker -- --backend webgpu,wasm
 *   npm run worker -- --api http://host:8080
 * `--api` is API_URL. `--backend` narrows BACKENDS: the worker takes only jobs that those can do. Stops on SIGTERM or
 * SIGINT: running jobs reach a resume point and go back to the queue; a second signal, or the end of its patience,
 * ends at once.
 */
import { parseArgs } from "node:util";
import { CodedError, describeFailure } from "../ops/errors.ts";
import { createServices } from "./services.ts";
import { readSettings, type Settings } from "./settings.ts";

/** Added to the time that jobs have to reach a resume point, ms. */
const stopMarginMs = 20_000;

async function main(): Promise<void> {
  const settings = commandLine();
  const services = await createServices(settings, { role: "worker" });
  const { log, runner } = services;
  log.info({ worker: runner?.id, backends: settings.backends }, "worker started");
  const stop = (signal: string): void => {
    log.info({ signal }, "worker stopping");
    for (const again of ["SIGTERM", "SIGINT"]) process.removeAllListeners(again).once(again, () => process.exit(1));
    setTimeout(() => {
      log.error({ deadline_ms: settings.stopTimeoutMs + stopMarginMs }, "worker did not stop in time");
      process.exit(1);
    }, settings.stopTimeoutMs + stopMarginMs).unref();
    void services.close().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ err: error }, "worker did not stop cleanly");
        process.exit(1);
      },
    );
  };
  process.once("SIGTERM", stop);
  process.once("SIGINT", stop);
}

/** @returns the environment's settings, as the command line changes them. @throws invalid_request */
function commandLine(): Settings {
  const usage = "usage: worker [--backend NAME[,NAME...]] [--api URL]";
  let values: { backend?: string[] | undefined; api?: string | undefined };
  try {
    const options = { backend: { type: "string", multiple: true }, api: { type: "string" } } as const;
    values = parseArgs({ options }).values;
  } catch (error) {
    throw new CodedError("invalid_request", `${error instanceof Error ? error.message : String(error)}; ${usage}`);
  }
  const settings = readSettings(values.api === undefined ? {} : { API_URL: values.api });
  const named = values.backend?.flatMap((text) => text.split(",")).map((name) => name.trim());
  if (named === undefined) return settings;
  const refused = named.find((name) => settings.backends?.includes(name) === false || name === "");
  if (refused === undefined) return { ...settings, backends: named };
  const allowed = settings.backends?.join(", ") ?? "any";
  throw new CodedError("invalid_request", `--backend ${JSON.stringify(refused)}: BACKENDS allows ${allowed}; ${usage}`);
}

main().catch((error: unknown) => {
  console.error(describeFailure(error));
  process.exit(1);
});
