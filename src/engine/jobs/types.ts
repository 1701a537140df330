/** The queue as the API sees it: put work in, steer it. */
import type { JobRow } from "../store/types.ts";
import type { JobKind, JobRequests } from "./requests.ts";

export interface JobQueue {
  /**
   * Checks the request against the store (unknown ids, impossible sizes: not_found, unprocessable), then
   * writes the job's row and its queue entry in one transaction. An evaluation also gets its own row.
   */
  submit<Kind extends JobKind>(kind: Kind, request: JobRequests[Kind]): Promise<JobRow>;
  /** Queued or paused jobs end at once, running ones as soon as they can. @throws conflict when it has ended. */
  cancel(id: string): Promise<JobRow>;
  /** Running or queued trainings stop at a resume point. @throws conflict for other kinds and ended jobs. */
  pause(id: string): Promise<JobRow>;
  /** @throws conflict unless the job is paused. */
  resume(id: string): Promise<JobRow>;
}
