/**
 * ENTRY of a worker process: runs jobs for servers that share its PostgreSQL and its data directory. Stops on
 * SIGTERM or SIGINT: running jobs reach a resume point and go back to the queue; a second signal ends at once.
 */
import { describeFailure } from "../ops/errors.ts";
import { createServices } from "./services.ts";
import { readSettings } from "./settings.ts";

async function main(): Promise<void> {
  const services = await createServices(readSettings(), { role: "worker" });
  const { log, runner } = services;
  log.info({ worker: runner?.id }, "worker started");
  const stop = (signal: string): void => {
    log.info({ signal }, "worker stopping");
    process.once(signal, () => process.exit(1));
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

main().catch((error: unknown) => {
  console.error(describeFailure(error));
  process.exit(1);
});
