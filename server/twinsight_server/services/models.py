"""ListModels and GetModel."""

from __future__ import annotations

import grpc

from twinsight.v1 import model_service_pb2 as models_pb
from twinsight.v1 import model_service_pb2_grpc as models_grpc
from twinsight_server.calls.gate import Gate
from twinsight_server.convert import answers
from twinsight_server.inference.models import Models, ServedModel


class ModelService(models_grpc.ModelServiceServicer):
    """Describes the models; see model_service.proto."""

    def __init__(self, gate: Gate, models: Models) -> None:
        self._gate = gate
        self._models = models

    def ListModels(
        self, request: models_pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> models_pb.ListModelsResponse:
        """Returns all models, sorted by name."""
        del request
        with self._gate.call(context, "ListModels"):
            return models_pb.ListModelsResponse(models=[self._message(model) for model in self._models.all()])

    def GetModel(self, request: models_pb.GetModelRequest, context: grpc.ServicerContext) -> models_pb.GetModelResponse:
        """Returns one model."""
        with self._gate.call(context, "GetModel"):
            return models_pb.GetModelResponse(model=self._message(self._models.get(request.model)))

    def _message(self, model: ServedModel) -> models_pb.Model:
        return answers.model_message(model.package, is_default=model.name == self._models.default_name)
