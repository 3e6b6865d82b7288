"""Linear and integer programs as sparse arrays, and the backends that solve them. Never imports torch."""

from solvers.base import REGISTRY, Backend, Session, SolveResult, SolveStatus, backend, register
from solvers.program import Program

__all__ = ["REGISTRY", "SolveResult", "Backend", "Program", "Session", "SolveStatus", "backend", "register"]
