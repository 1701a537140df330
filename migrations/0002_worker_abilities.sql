-- Workers report themselves every few seconds: the rows of an older version are worth nothing.
DELETE FROM "workers";--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "needs_bytes" bigint;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "selector" text;--> statement-breakpoint
ALTER TABLE "jobs" ADD COLUMN "queued_at" timestamp (3) with time zone;--> statement-breakpoint
ALTER TABLE "workers" ADD COLUMN "memory_bytes" bigint NOT NULL;--> statement-breakpoint
ALTER TABLE "workers" ADD COLUMN "needs" json NOT NULL;--> statement-breakpoint
ALTER TABLE "workers" ADD COLUMN "places" json NOT NULL;--> statement-breakpoint
ALTER TABLE "workers" ADD COLUMN "running" json NOT NULL;--> statement-breakpoint
CREATE INDEX "jobs_waiting" ON "jobs" USING btree ("status","selector","queued_at");--> statement-breakpoint
ALTER TABLE "workers" DROP COLUMN "current_job";