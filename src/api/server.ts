/**
 * ENTRY of `npm start`: the HTTP API, and on the embedded database the job runner in the same process. SIGTERM and
 * SIGINT stop it in order, within a deadline; a second signal ends it at once.
 */
import { describeFailure } from "../ops/errors.ts";
import { readSettings } from "../engine/settings.ts";
import { startServer, type RunningServer } from "./listen.ts";

/** Added to the time that jobs have to reach a resume point, ms. */
const stopMarginMs = 20_000;

async function main(): Promise<void> {
  const settings = readSettings();
  const server = await startServer(settings);
  const { url } = server;
  const { log, store } = server.services;
  log.info({ url, data_dir: settings.dataDir, store: store.kind }, `listening on ${url}`);
  let stopping = false;
  const onSignal = (signal: string): void => {
    if (stopping) {
      log.warn({ signal }, "ended at once by a second signal");
      process.exit(1);
    }
    stopping = true;
    log.info({ signal }, "stopping");
    void stop(server, settings.stopTimeoutMs + stopMarginMs);
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
}

async function stop(server: RunningServer, deadlineMs: number): Promise<void> {
  const { log } = server.services;
  setTimeout(() => {
    log.error({ deadline_ms: deadlineMs }, "did not stop in time");
    process.exit(1);
  }, deadlineMs).unref();
  await server.close().then(
    () => log.info("stopped"),
    (error: unknown) => {
      log.error({ err: error }, "did not stop cleanly");
      process.exitCode = 1;
    },
  );
  process.exit();
}

main().catch((error: unknown) => {
  console.error(describeFailure(error));
  process.exit(1);
});
