// SPDX-License-Identifier: Apache-2.0

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * Flink SQL catches up on a Kafka topic of flights and keeps the view, in its own heap.
 *
 * <p>{@code java Flink.java BROKERS TOPIC}. For each line on stdin it reads the topic from its beginning to the end that
 * it has then, and answers with a line of JSON once every event has gone through the view to a sink that keeps nothing.
 * Two slots, object reuse, hash map state, no mini-batches, no checkpoints. The machine stays warm from line to line.
 */
public final class Flink {
    public static void main(String[] args) throws Exception {
        TableEnvironment flink = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        var settings = flink.getConfig();
        settings.set("parallelism.default", "2");
        settings.set("pipeline.object-reuse", "true");
        settings.set("state.backend.type", "hashmap");
        settings.set("taskmanager.numberOfTaskSlots", "2");
        flink.executeSql(
                "CREATE TABLE flights (`date` TIMESTAMP(3), delay BIGINT, distance BIGINT, origin STRING, destination STRING) WITH ("
                        + "'connector' = 'kafka', 'properties.bootstrap.servers' = '" + args[0] + "', 'topic' = '" + args[1] + "', "
                        + "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset', "
                        + "'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601')");
        flink.executeSql(
                "CREATE TABLE hourly (origin STRING, `hour` TIMESTAMP(3), flights BIGINT, total BIGINT, mean DOUBLE, least BIGINT, most BIGINT, "
                        + "PRIMARY KEY (origin, `hour`) NOT ENFORCED) WITH ('connector' = 'blackhole')");
        var lines = new BufferedReader(new InputStreamReader(System.in));
        while (lines.readLine() != null) {
            double cpu = cpuSeconds();
            long begin = System.nanoTime();
            flink.executeSql(
                            "INSERT INTO hourly SELECT origin, FLOOR(`date` TO HOUR), COUNT(*), SUM(delay), AVG(CAST(delay AS DOUBLE)), MIN(delay), MAX(delay) "
                                    + "FROM flights GROUP BY origin, FLOOR(`date` TO HOUR)")
                    .await();
            double seconds = (System.nanoTime() - begin) / 1e9;
            System.out.printf(
                    "{\"seconds\": %f, \"cpu_seconds\": %f, \"peak_mib\": %d}%n", seconds, cpuSeconds() - cpu, peakMib());
        }
    }

    private static double cpuSeconds() {
        var system = (com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
        return system.getProcessCpuTime() / 1e9;
    }

    private static long peakMib() throws Exception {
        try (var lines = Files.lines(Path.of("/proc/self/status"))) {
            String peak = lines.filter(line -> line.startsWith("VmHWM:")).findFirst().orElseThrow();
            return Long.parseLong(peak.replaceAll("\\D", "")) / 1024;
        }
    }
}
