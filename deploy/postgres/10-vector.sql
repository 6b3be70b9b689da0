-- Run once by the Postgres image, when its volume is still empty.
CREATE EXTENSION IF NOT EXISTS vector;
