import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.MapperFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsException;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Talkers per 10 seconds by Kafka Streams, from the JSON topic.
 *
 * <p>It prints a JSON line each time that the sum of a window and source has changed: the last
 * line of each is its sum. It ends at SIGTERM, with the number of records that came later than
 * --wait after their window, or at a value that is no flow record, with topic, partition and
 * offset.
 */
public final class TopTalkers {
    private static final Duration WINDOW = Duration.ofSeconds(10);
    private static final String SEEN = "seen";
    private static final int INGRESS = 0;

    private static final ObjectMapper JSON =
            JsonMapper.builder()
                    .enable(DeserializationFeature.FAIL_ON_MISSING_CREATOR_PROPERTIES)
                    .enable(DeserializationFeature.FAIL_ON_NULL_CREATOR_PROPERTIES)
                    .disable(MapperFeature.ALLOW_COERCION_OF_SCALARS)
                    .build();

    /** The fields that the program needs, by their names in JSON; a long holds every number. */
    @JsonIgnoreProperties(ignoreUnknown = true)
    record Flow(
            int record_type,
            int schema_version,
            String host_id,
            long agent_epoch,
            long seq,
            long time_flow_end_ns,
            int flow_direction,
            String src_addr,
            long packets,
            long bytes) {
        /** A record that was published twice has the same run and number. */
        String name() {
            return host_id + "/" + agent_epoch + "/" + seq;
        }
    }

    record Sums(long packets, long bytes) {
        Sums plus(Flow flow) {
            return new Sums(packets + flow.packets, bytes + flow.bytes);
        }
    }

    record Line(long start, String src_addr, long packets, long bytes) {}

    /** Passes on each record once, as long as its window may be open. */
    private static final class Once implements FixedKeyProcessor<byte[], Flow, Flow> {
        private FixedKeyProcessorContext<byte[], Flow> context;
        private WindowStore<String, byte[]> seen;

        @Override
        public void init(FixedKeyProcessorContext<byte[], Flow> context) {
            this.context = context;
            this.seen = context.getStateStore(SEEN);
        }

        @Override
        public void process(FixedKeyRecord<byte[], Flow> record) {
            String name = record.value().name();
            if (seen.fetch(name, record.timestamp()) == null) {
                seen.put(name, new byte[0], record.timestamp());
                context.forward(record);
            }
        }
    }

    private static <T> Serde<T> json(Class<T> type) {
        return Serdes.serdeFrom((topic, value) -> bytes(value), (topic, value) -> read(value, type));
    }

    private static byte[] bytes(Object value) {
        try {
            return value == null ? null : JSON.writeValueAsBytes(value);
        } catch (JsonProcessingException error) {
            throw new UncheckedIOException(error);
        }
    }

    private static <T> T read(byte[] value, Class<T> type) {
        try {
            return value == null ? null : JSON.readValue(value, type);
        } catch (IOException error) {
            return null; // endOf knows the place
        }
    }

    /** The time of a record's last packet, in ms; throws at a value that is no flow record. */
    private static long endOf(ConsumerRecord<Object, Object> message, long ignored) {
        if (message.value() instanceof Flow flow
                && flow.record_type == 1
                && flow.schema_version == 1) {
            return flow.time_flow_end_ns / 1_000_000;
        }
        throw new StreamsException(
                "%s, partition %d, offset %d: not a JSON flow record of schema version 1"
                        .formatted(message.topic(), message.partition(), message.offset()));
    }

    private static Topology topology(String topic, Duration wait) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(
                Stores.windowStoreBuilder(
                        Stores.persistentWindowStore(SEEN, WINDOW.plus(wait), WINDOW, false),
                        Serdes.String(),
                        Serdes.ByteArray()));
        builder.stream(
                        topic,
                        Consumed.with(Serdes.ByteArray(), json(Flow.class))
                                .withTimestampExtractor(TopTalkers::endOf))
                .processValues(Once::new, SEEN)
                // A packet that a host forwards is seen again going out: count it once.
                .filter((key, flow) -> flow.flow_direction == INGRESS)
                .groupBy(
                        (key, flow) -> flow.src_addr, Grouped.with(Serdes.String(), json(Flow.class)))
                .windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, wait))
                .aggregate(
                        () -> new Sums(0, 0),
                        (source, flow, sums) -> sums.plus(flow),
                        Materialized.with(Serdes.String(), json(Sums.class)))
                .toStream()
                .foreach(TopTalkers::print);
        return builder.build();
    }

    private static void print(Windowed<String> talker, Sums sums) {
        long start = talker.window().start() / 1000;
        byte[] line = bytes(new Line(start, talker.key(), sums.packets, sums.bytes));
        System.out.println(new String(line, java.nio.charset.StandardCharsets.UTF_8));
    }

    private static long late(KafkaStreams streams) {
        return streams.metrics().values().stream()
                .filter(metric -> metric.metricName().name().equals("dropped-records-total"))
                .mapToLong(metric -> ((Number) metric.metricValue()).longValue())
                .sum();
    }

    public static void main(String[] arguments) throws InterruptedException {
        Map<String, String> options =
                new java.util.HashMap<>(
                        Map.of(
                                "--brokers", "127.0.0.1:9092",
                                "--topic", "flowstream.flows",
                                "--wait", "45",
                                "--state", "/var/tmp/top-talkers"));
        List<String> words = List.of(arguments);
        for (int n = 0; n < words.size(); n += 2) {
            if (n + 1 == words.size() || options.replace(words.get(n), words.get(n + 1)) == null) {
                System.err.println("options, each with a value: " + options.keySet());
                System.exit(2);
            }
        }
        Properties settings = new Properties();
        // Its group and its own topics belong to one topic that it reads.
        settings.put(
                StreamsConfig.APPLICATION_ID_CONFIG, "top-talkers-of-" + options.get("--topic"));
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.get("--brokers"));
        settings.put(StreamsConfig.STATE_DIR_CONFIG, options.get("--state"));
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        Duration wait = Duration.ofSeconds(Long.parseLong(options.get("--wait")));
        KafkaStreams streams = new KafkaStreams(topology(options.get("--topic"), wait), settings);
        CountDownLatch failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(
                error -> {
                    for (Throwable each = error; each != null; each = each.getCause()) {
                        System.err.println(each.getMessage());
                    }
                    failed.countDown();
                    return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
                });
        Runtime.getRuntime()
                .addShutdownHook(
                        new Thread(
                                () -> {
                                    long late = late(streams);
                                    streams.close();
                                    if (late > 0) {
                                        System.err.println(
                                                late + " records came too late: use a longer --wait");
                                    }
                                }));
        streams.start();
        failed.await();
        System.exit(1);
    }
}
