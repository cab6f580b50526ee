CREATE STREAM IF NOT EXISTS visits ("At" TIMESTAMP NOT NULL, price DECIMAL(10, 2), tags LIST<VARCHAR>, client STRUCT<os VARCHAR, "a b" BOOLEAN>) WITH (event_time = 'At', event_time_unit = 'ms', unknown_columns = 'reject');
-- a view
CREATE VIEW pages AS SELECT date_bin(INTERVAL '5 minutes', "At") AS at, count(*) AS n, sum(price) AS total FROM visits GROUP BY 1;
