-- How each route does. Its groups never close: every one of them is merged across the seam.
CREATE VIEW route_performance WITH (refresh = '5 minutes') AS
SELECT origin,
       destination,
       count(*) AS flights,
       count(*) FILTER (WHERE delay > 15) AS late,
       avg(delay) AS avg_delay,
       max(delay) AS worst_delay,
       max(distance) AS miles
FROM flights
GROUP BY origin, destination;
