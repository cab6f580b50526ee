-- One event per flight, in the order of their dates.
CREATE STREAM flights (
  date TIMESTAMP NOT NULL,
  delay INT,
  distance INT,
  origin VARCHAR,
  destination VARCHAR
) WITH (event_time = 'date');
