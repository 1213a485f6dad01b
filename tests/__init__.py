import importlib.metadata
import os

# Tests spend their time compiling tiny programs, and optimising those costs more than it saves. Their processes inherit
# it.
QUICK = '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # XLA aborts at a flag that it does not know.
  QUICK += ' --xla_cpu_use_fusion_emitters=false'
os.environ.setdefault('XLA_FLAGS', QUICK)
