import six
print(six.__version__, six.PY3)
