"""Linear and integer programs as sparse arrays, and the backends that solve them. Never imports torch."""

from solvers.base import REGISTRY, Answer, Backend, Session, Status, backend
from solvers.program import Program

__all__ = ["REGISTRY", "Answer", "Backend", "Program", "Session", "Status", "backend"]
