-- How late flights are, by airport and hour: recomputed from raw every night at three, refreshed
-- every five minutes, and exact up to the last event at any moment.
CREATE VIEW airport_delays WITH (recompute = '0 3 * * *', refresh = '5 minutes') AS
SELECT origin,
       date_trunc('hour', date) AS hour,
       count(*) AS flights,
       avg(delay) AS avg_delay,
       approx_percentile_cont(delay, 0.9) AS p90,
       approx_distinct(destination) AS destinations
FROM flights
GROUP BY origin, hour;
