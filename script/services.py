# SPDX-License-Identifier: Apache-2.0
"""Kafka, a schema registry and an S3 server as real processes on free ports of the loopback, for commands of documents.

The scripts beside this one fetch them once. Each ends with this process, however that ends. One that does not start
raises `Failed` with what it said.
"""

import os
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
PATIENCE_S = 90
KEYS = {"AWS_ACCESS_KEY_ID": "AKDOVETAILDOCS", "AWS_SECRET_ACCESS_KEY": "a/secret+of=the/documents"}
REGION = "eu-central-1"
BUCKET = "events"
REGISTRY_PATH = "/apis/ccompat/v7"
JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
# Kills what it runs when its standard input ends, which happens when this process does.
KEEPER = '"$@" & pid=$!; cat >/dev/null; kill -9 $pid; wait'
# Kafka's own command-line tools, by the names that they have in its distribution.
KAFKA_TOOLS = {
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
    "kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
}
# A topic that was just made has no leaders for a moment. Who types does not notice; here, the next command waits until
# another process has seen it.
TOOL = """\
#!/bin/sh
{words} "$@" || exit
case " $* " in
*' --create '*) {words} --bootstrap-server {address} --describe >/dev/null ;;
esac
"""

BROKER = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://{address}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={dir}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
"""

LOG4J = """\
rootLogger.level={level}
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%p %c: %m%n
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=INFO
"""


class Failed(Exception):
    """What did not start or did not succeed, and what it said."""


class Ports:
    """Addresses on the loopback that were free, none of them twice."""

    def __init__(self) -> None:
        self._given: set[int] = set()

    def address(self) -> str:
        while True:
            with socket.socket() as bound:
                bound.bind(("127.0.0.1", 0))
                port = bound.getsockname()[1]
            if port not in self._given:
                self._given.add(port)
                return f"127.0.0.1:{port}"


class Service:
    """A process of another maker, which says into `log` what it does."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self._name, self._log = log.name, log
        self._process = subprocess.Popen(
            ["sh", "-c", KEEPER, "kept", *command],
            env={**os.environ, **(env or {})},
            stdin=subprocess.PIPE,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def wait_until(self, ready) -> None:
        end = time.monotonic() + PATIENCE_S
        while not ready():
            if time.monotonic() > end:
                self.stop()
                raise Failed(f"{self._name} does not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def fetched(script: str) -> Path:
    """Where a script says that it keeps what it has fetched."""
    done = subprocess.run([SCRIPTS / script], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def start_kafka(dir: Path, address: str, controller: str) -> Service:
    """A broker of one node, and its tools in `dir`/bin."""
    java = [*JAVA, "-cp", f"{fetched('kafka-jars')}/*"]
    (dir / "bin").mkdir(parents=True)
    properties = dir / "server.properties"
    properties.write_text(BROKER.format(address=address, controller=controller.split(":")[1], dir=dir))
    for level in ("WARN", "ERROR"):
        (dir / f"{level}.properties").write_text(LOG4J.format(level=level))
    logging = f"-Dlog4j2.configurationFile={dir}/WARN.properties"
    format = [*java, logging, "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAQACAAAAAAAAAAQ", "-c", properties]
    formatted = subprocess.run(format, capture_output=True, text=True, check=False)
    if formatted.returncode != 0:
        raise Failed(f"kafka's storage cannot be formatted:\n{formatted.stdout}{formatted.stderr}")
    service = Service([*java, logging, "kafka.Kafka", properties], dir / "kafka")
    service.wait_until(lambda: "Kafka Server started" in (dir / "kafka").read_text())
    for name, main in KAFKA_TOOLS.items():
        tool = dir / "bin" / name
        words = " ".join(f"'{word}'" for word in [*java, f"-Dlog4j2.configurationFile={dir}/ERROR.properties", main])
        tool.write_text(TOOL.format(words=words, address=address))
        tool.chmod(0o755)
    return service


def start_registry(dir: Path, address: str) -> Service:
    """Apicurio, with Confluent's API below `REGISTRY_PATH`."""
    dir.mkdir()
    [jar] = fetched("schema-registry").glob("*-runner.jar")
    host, port = address.split(":")
    command = [*JAVA, f"-Dquarkus.http.host={host}", f"-Dquarkus.http.port={port}", "-jar", jar]
    service = Service(command, dir / "registry")
    service.wait_until(lambda: answers(f"http://{address}{REGISTRY_PATH}/subjects"))
    return service


def start_s3(dir: Path, address: str, options: list) -> Service:
    """versitygw on a directory, with a bucket `BUCKET`."""
    (dir / "root" / BUCKET).mkdir(parents=True)
    (dir / "sidecar").mkdir()
    keys = {"ROOT_ACCESS_KEY": KEYS["AWS_ACCESS_KEY_ID"], "ROOT_SECRET_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    command = [fetched("versitygw"), "--quiet", "--health", "/healthz", "--region", REGION, "--port", address, *options]
    # Attributes in files of their own: not every temporary directory has extended ones.
    service = Service([*command, "posix", "--sidecar", dir / "sidecar", dir / "root"], dir / "versitygw", keys)
    service.wait_until(lambda: answers(f"http://{address}/healthz"))
    return service


class Services:
    """Those services that `script` names as documents do, and where they really are.

    `127.0.0.1:9092` is Kafka, `http://127.0.0.1:8081/apis/ccompat/v7` the registry; every `s3://` URL is found on the S3
    server, named `http://127.0.0.1:9000`, by the environment. Every other address of a document is one that was free.
    """

    ADDRESS = re.compile(r"\b(?:127\.0\.0\.1|10\.0\.0\.\d+):\d+\b")
    KAFKA, REGISTRY, S3 = "127.0.0.1:9092", "127.0.0.1:8081" + REGISTRY_PATH, "127.0.0.1:9000"
    DEFAULT = "127.0.0.1:8080"

    def __init__(self, script: str, dir: Path, s3_options: list = ()) -> None:
        ports = Ports()
        names = {*self.ADDRESS.findall(script), self.DEFAULT, self.S3}
        self._addresses = {name: ports.address() for name in sorted(names)}
        self._dir = dir
        self._started: list[Service] = []
        try:
            if "s3://" in script:
                self._started.append(start_s3(dir / "s3", self._addresses[self.S3], s3_options))
            if self.KAFKA in script:
                self._started.append(start_kafka(dir / "kafka", self._addresses[self.KAFKA], ports.address()))
            if self.REGISTRY in script:
                registry = self._addresses[self.ADDRESS.match(self.REGISTRY)[0]]
                self._started.append(start_registry(dir / "registry", registry))
        except BaseException:
            self.stop()
            raise

    def named_in(self, script: str) -> str:
        """`script` with the real addresses in it, and directories of the machine below our own."""
        script = self.ADDRESS.sub(lambda name: self._addresses[name[0]], script)
        return script.replace("/var/lib/", f"{self._dir}/lib/").replace("/tmp/", f"{self._dir}/tmp/")

    def environment(self) -> dict[str, str]:
        listen = self._addresses[self.DEFAULT]
        return {
            **KEYS,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://{self._addresses[self.S3]}",
            "AWS_ALLOW_HTTP": "true",
            "DOVETAIL_LISTEN": listen,
            "DOVETAIL_URL": f"http://{listen}",
            "PATH": f"{self._dir}/kafka/bin:{os.environ['PATH']}",
        }

    def stop(self) -> None:
        for service in reversed(self._started):
            service.stop()
