"""A gRPC client generated from the .proto files inside TorchServe's own jar."""

import sys
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from grpc_tools import protoc

PROTOS = ("inference.proto", "google/rpc/status.proto", "google/protobuf/any.proto", "google/protobuf/empty.proto")


class Client:
    """Calls the inference side of a server."""

    def __init__(self, server, folder, model="imagenet"):
        self._model = model
        self.messages, services = generated(folder)
        self._metadata = (("authorization", server.inference.headers["Authorization"]),)
        self._channel = grpc.insecure_channel(f"127.0.0.1:{urlsplit(server.inference.url).port + 3}")
        self._stub = services.InferenceAPIsServiceStub(self._channel)

    def _request(self, fields):
        entries = {name: value if isinstance(value, bytes) else str(value).encode() for name, value in fields.items()}
        return self.messages.PredictionsRequest(model_name=self._model, input=entries)

    def predict(self, **fields):
        return self._stub.Predictions(self._request(fields), metadata=self._metadata, timeout=60).prediction

    def stream(self, **fields):
        answers = self._stub.StreamPredictions(self._request(fields), metadata=self._metadata, timeout=60)
        return b"".join(answer.prediction for answer in answers)

    def stream_both_ways(self, sequence=None, **fields):
        request = self._request(fields)
        if sequence:
            request.sequence_id = sequence
        return list(self._stub.StreamPredictions2(iter([request]), metadata=self._metadata, timeout=60))

    def close(self):
        self._channel.close()


def generated(folder):
    """Generate the stub's two modules into ``folder`` and import them."""
    jar = Path(find_spec("ts").origin).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as archive:
        for name in PROTOS:
            archive.extract(name, folder)
    arguments = [f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "inference.proto"]
    assert protoc.main(["protoc", *arguments]) == 0
    assert protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", "google/rpc/status.proto"]) == 0
    sys.path.insert(0, str(folder))
    try:
        # google.rpc is no part of protobuf's own package, so it is found beside it.
        google = import_module("google")
        google.__path__.append(str(folder / "google"))
        return import_module("inference_pb2"), import_module("inference_pb2_grpc")
    finally:
        sys.path.remove(str(folder))
